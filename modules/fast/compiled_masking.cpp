// What stands around a convolution whose kernels are masked, there and back: choosing channels, ReLU and 2x2 max-pooling,
// and the gradient of the factors that maps are multiplied by. Each in one pass over the maps, which are larger than a
// processor's cache: torch takes one for every step of it.
//
// Maps stand in the order (images, rows, columns, channels). Numbers are float32 or bfloat16; sums are float32, and of
// many rows float64.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using std::int64_t;
using std::uint8_t;

#define INLINE static inline __attribute__((always_inline))

struct Bfloat16 {
    std::uint16_t bits;
};

// Eight of a kind at once, whatever the processor's vectors hold: layers have as few channels.
constexpr int64_t EIGHT = 8;
typedef float Floats __attribute__((vector_size(4 * EIGHT)));
typedef std::int32_t Integers __attribute__((vector_size(4 * EIGHT)));
typedef std::int16_t ShortIntegers __attribute__((vector_size(2 * EIGHT)));
typedef uint8_t Bytes __attribute__((vector_size(EIGHT)));

// The bits of numbers as integers: those above 0 are those whose numbers are.
template <typename Number>
struct As;
template <>
struct As<float> {
    typedef std::int32_t Integer;
    typedef Integers Eight;
};
template <>
struct As<Bfloat16> {
    typedef std::int16_t Integer;
    typedef ShortIntegers Eight;
};

template <typename Vector, typename Number>
INLINE Vector load(const Number *from) {
    Vector values;
    std::memcpy(&values, from, sizeof values);
    return values;
}
template <typename Vector, typename Number>
INLINE void store(Number *to, Vector values) {
    std::memcpy(to, &values, sizeof values);
}
INLINE Floats numbers(const float *from) { return load<Floats>(from); }
INLINE Floats numbers(const Bfloat16 *from) {
    return (Floats)(__builtin_convertvector(load<ShortIntegers>(from), Integers) << 16);
}
INLINE void put_exact(float *to, Floats values) { store(to, values); }
INLINE void put_exact(Bfloat16 *to, Floats values) {
    store(to, __builtin_convertvector((Integers)values >> 16, ShortIntegers));
}

// Some channels of a pixel, filled up to a multiple of eight.
template <typename Number>
struct Row {
    typedef typename As<Number>::Integer Integer;
    typedef typename As<Number>::Eight Eight;
    std::vector<Integer> values;
    explicit Row(int64_t count) : values((count + EIGHT - 1) / EIGHT * EIGHT) {}

    template <typename Given>
    void take(const Given *from, const int *chosen, int64_t count) {
        for (int64_t j = 0; j < count; j++)
            if constexpr (sizeof(Given) == sizeof(Integer))
                std::memcpy(&values[j], from + chosen[j], sizeof(Integer));
            else
                values[j] = from[chosen[j]];
    }
    Eight at(int64_t first) const { return load<Eight>(&values[first]); }
    void put(int64_t first, Eight eight) { store(&values[first], eight); }
    void give(Number *to, int64_t count) const { std::memcpy(to, values.data(), count * sizeof(Integer)); }
};

INLINE float number(float value) { return value; }
INLINE float number(Bfloat16 value) {
    std::uint32_t bits = std::uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}
INLINE void put(float &to, float value) { to = value; }
// To the nearest, of two the even one. What is not a number stays so.
INLINE void put(Bfloat16 &to, float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to.bits = value != value ? 0x7fc0 : rounded;
}

constexpr uint8_t NOWHERE = 4;  // in place of a pixel of the four: ReLU let nothing through
constexpr int64_t ROWS_AT_ONCE = 256;  // whose products are summed in float32

// Some channels of every row.
template <typename Number>
void take(int64_t rows, int64_t channels, int64_t count, const int *__restrict chosen, const Number *__restrict from,
          Number *__restrict to) {
    for (int64_t row = 0; row < rows; row++, from += channels, to += count)
        for (int64_t j = 0; j < count; j++) to[j] = from[chosen[j]];
}

// The same where the map behind ReLU is above 0, else 0.
template <typename Number>
void take_rectified(int64_t rows, int64_t channels, int64_t count, const int *chosen, const Number *from,
                    const Number *made, Number *to) {
    Row<Number> slopes(count), values(count);
    for (int64_t row = 0; row < rows; row++, from += channels, made += channels, to += count) {
        slopes.take(from, chosen, count);
        values.take(made, chosen, count);
        for (int64_t j = 0; j < count; j += EIGHT) slopes.put(j, slopes.at(j) & (values.at(j) > 0));
        slopes.give(to, count);
    }
}

// The largest of four pixels in every channel, and which one it is, the first of equal ones; with ReLU, where that is
// above 0. `height` and `width` are those of the pooled map.
template <typename Number>
void pool(int64_t images, int64_t height, int64_t width, int64_t channels, bool relu, const Number *from, Number *to,
          uint8_t *where) {
    for (int64_t line = 0; line < images * height; line++)
        for (int64_t column = 0; column < width; column++, to += channels, where += channels) {
            const Number *pixel[4];
            for (int at = 0; at < 4; at++)
                pixel[at] = from + ((2 * line + at / 2) * 2 * width + 2 * column + at % 2) * channels;
            int64_t first = 0;
            for (; first + EIGHT <= channels; first += EIGHT) {
                Floats largest = numbers(pixel[0] + first);
                Integers found{};
                for (int at = 1; at < 4; at++) {
                    Floats value = numbers(pixel[at] + first);
                    Integers is_larger = (value > largest) | (value != value);  // what is not a number stays so
                    largest = is_larger ? value : largest;
                    found = is_larger ? Integers{} + at : found;
                }
                if (relu) {
                    Integers is_cut = largest <= 0;
                    largest = is_cut ? Floats{} : largest;
                    found = is_cut ? Integers{} + NOWHERE : found;
                }
                put_exact(to + first, largest);
                store(where + first, __builtin_convertvector(found, Bytes));
            }
            for (; first < channels; first++) {
                float largest = number(pixel[0][first]);
                int found = 0;
                for (int at = 1; at < 4; at++)
                    if (float value = number(pixel[at][first]); value > largest || value != value)
                        largest = value, found = at;
                bool is_cut = relu && largest <= 0;
                put(to[first], is_cut ? 0 : largest);
                where[first] = is_cut ? NOWHERE : found;
            }
        }
}

// The way back, for some of the channels: a gradient goes to the pixel that it is of, the three others have none.
template <typename Number>
void unpool(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t count, const int *chosen,
            const Number *grad, const uint8_t *where, Number *to) {
    Row<Number> slopes(count), places(count), here(count);
    for (int64_t line = 0; line < images * height; line++)
        for (int64_t column = 0; column < width; column++, grad += channels, where += channels) {
            slopes.take(grad, chosen, count);
            places.take(where, chosen, count);
            for (int at = 0; at < 4; at++) {
                for (int64_t j = 0; j < count; j += EIGHT) {
                    typename Row<Number>::Eight pixel = typename Row<Number>::Eight{} + typename Row<Number>::Integer(at);
                    here.put(j, slopes.at(j) & (places.at(j) == pixel));
                }
                here.give(to + ((2 * line + at / 2) * 2 * width + 2 * column + at % 2) * count, count);
            }
        }
}

// The factors' gradient: of every channel the sum of maps times their gradient; which is multiplied by the factor then.
template <typename Number>
void of_factors(int64_t rows, int64_t channels, const float *__restrict factors, const Number *__restrict maps,
                Number *__restrict of_maps, float *__restrict sums) {
    std::vector<double> totals(channels);
    std::vector<float> some(channels);
    float *__restrict sum = some.data();
    for (int64_t first = 0; first < rows; first += ROWS_AT_ONCE) {
        std::fill(some.begin(), some.end(), 0.f);
        for (int64_t row = first; row < std::min(rows, first + ROWS_AT_ONCE); row++, maps += channels, of_maps += channels)
            for (int64_t c = 0; c < channels; c++) {
                float slope = number(of_maps[c]);
                sum[c] += slope * number(maps[c]);
                put(of_maps[c], slope * factors[c]);
            }
        for (int64_t c = 0; c < channels; c++) totals[c] += some[c];
    }
    for (int64_t c = 0; c < channels; c++) sums[c] = float(totals[c]);
}

#define FOR(NUMBER, SUFFIX)                                                                                            \
    void take_##SUFFIX(int64_t rows, int64_t channels, int64_t count, const int *chosen, const NUMBER *from,           \
                       NUMBER *to) {                                                                                   \
        take(rows, channels, count, chosen, from, to);                                                                 \
    }                                                                                                                  \
    void take_rectified_##SUFFIX(int64_t rows, int64_t channels, int64_t count, const int *chosen, const NUMBER *from, \
                                 const NUMBER *made, NUMBER *to) {                                                     \
        take_rectified(rows, channels, count, chosen, from, made, to);                                                 \
    }                                                                                                                  \
    void pool_##SUFFIX(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t relu,                  \
                       const NUMBER *from, NUMBER *to, uint8_t *where) {                                               \
        pool(images, height, width, channels, relu != 0, from, to, where);                                             \
    }                                                                                                                  \
    void unpool_##SUFFIX(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t count,               \
                         const int *chosen, const NUMBER *grad, const uint8_t *where, NUMBER *to) {                    \
        unpool(images, height, width, channels, count, chosen, grad, where, to);                                       \
    }                                                                                                                  \
    void of_factors_##SUFFIX(int64_t rows, int64_t channels, const float *factors, const NUMBER *maps,                 \
                             NUMBER *of_maps, float *sums) {                                                           \
        of_factors(rows, channels, factors, maps, of_maps, sums);                                                      \
    }

extern "C" {
FOR(float, float32)
FOR(Bfloat16, bfloat16)
}
