// Conv layers with what follows them at once: bias, ReLU, the addition of another map, 2x2 max-pooling.
//
// Kernels of 3x3 with stride and padding 1 on square maps are convolved by minimal filtering, after Winograd (Arithmetic
// Complexity of Computations, 1980) as Lavin and Gray apply it to convolutional networks (Fast Algorithms for
// Convolutional Neural Networks, CVPR 2016). A tile of the output is made of the tile of the map that reaches one pixel
// beyond it: along rows and columns, pixels become points; at every point, channels become kernels by a small matrix
// product; points become pixels. A tile of 4x4 takes 36 products per channel and kernel in place of 144. All other
// kernels are convolved tap by tap; depthwise ones likewise.
//
// Maps stand in the order (blocks, rows, columns, channels, LANES): the same pixel of LANES images is beside each
// other. So all arithmetic is on whole vectors however few the channels are, and an image's outputs do not depend on
// others.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

using std::int64_t;

#ifndef VECTOR_BYTES  // of the processor's registers; the tests ask for others than it has
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#endif
typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));
constexpr int WIDTH = VECTOR_BYTES / sizeof(float);
constexpr int LANES = 2 * WIDTH;
constexpr int PANEL = 6;  // kernels whose sums over the channels, for LANES images, fit into the registers
constexpr int64_t POINTS_BYTES = 1 << 18;  // that stay in the cache of a core

#define INLINE static inline __attribute__((always_inline))

INLINE Vector load(const float *from) { return *reinterpret_cast<const Vector *>(from); }
INLINE void store(float *to, Vector values) { *reinterpret_cast<Vector *>(to) = values; }
// What is not a number stays so.
INLINE Vector larger(Vector a, Vector b) { return (a < b) | (b != b) ? b : a; }
INLINE Vector rectified(Vector a) { return Vector{} > a ? Vector{} : a; }

// What follows the sums over the channels.
struct Ending {
    const float *bias;   // (kernels,)
    bool relu;           // of what has its bias
    const float *added;  // like the outputs before pooling, or null
    bool relu_of_sum;

    // Of the values that stand at `at` among the outputs before pooling.
    __attribute__((always_inline)) Vector of(Vector sums, int64_t kernel, int64_t at) const {
        Vector value = sums + bias[kernel];
        if (relu) value = rectified(value);
        if (added) value = value + load(added + at);
        return relu_of_sum ? rectified(value) : value;
    }
};

// A map of two pixels x, y: with a kernel a, b, c, by (x + y) b, y (c - b) and x (a - b) it becomes xb + yc, xa + yb.
struct Two {
    static constexpr int OUTPUTS = 2, INPUTS = 4, POINTS = 3;
    INLINE void to_points(const Vector *pixel, Vector *point) {
        point[0] = pixel[1] + pixel[2];
        point[1] = pixel[2];
        point[2] = pixel[1];
    }
    INLINE void to_outputs(const Vector *point, Vector *output) {
        output[0] = point[0] + point[1];
        output[1] = point[0] + point[2];
    }
};

// Four outputs at the points 0, +-sqrt(1/2), +-sqrt(2) and infinity, which round less than the usual 0, +-1, +-2.
struct Four {
    static constexpr int OUTPUTS = 4, INPUTS = 6, POINTS = 6;
    static constexpr float NEAR = 0.70710678118654752f, FAR = 1.4142135623730951f;
    INLINE void to_points(const Vector *pixel, Vector *point) {
        Vector even_near = pixel[4] - 2.f * pixel[2], odd_near = NEAR * (pixel[3] - 2.f * pixel[1]);
        Vector even_far = pixel[4] - .5f * pixel[2], odd_far = FAR * (pixel[3] - .5f * pixel[1]);
        point[0] = pixel[0] - 2.5f * pixel[2] + pixel[4];
        point[1] = even_near + odd_near;
        point[2] = even_near - odd_near;
        point[3] = even_far + odd_far;
        point[4] = even_far - odd_far;
        point[5] = pixel[1] - 2.5f * pixel[3] + pixel[5];
    }
    INLINE void to_outputs(const Vector *point, Vector *output) {
        Vector even_near = point[1] + point[2], odd_near = NEAR * (point[1] - point[2]);
        Vector even_far = point[3] + point[4], odd_far = FAR * (point[3] - point[4]);
        output[0] = point[0] + even_near + even_far;
        output[1] = odd_near + odd_far;
        output[2] = .5f * even_near + 2.f * even_far;
        output[3] = .5f * odd_near + 2.f * odd_far + point[5];
    }
};

// A layer on its maps, by minimal filtering.
struct Layer {
    int64_t blocks, side, channels, kernels;
    Ending ending;
    bool pool;
    const float *maps;     // (blocks, side, side, channels, LANES)
    const float *weights;  // for every panel (points, channels, its kernels)
    float *outputs;        // (blocks, side, side, kernels, LANES); pooled, half the side
};

// Where a tile lies.
struct Place {
    int64_t block, row, column;
};

template <class Filtering>
struct Convolution {
    static constexpr int OUTPUTS = Filtering::OUTPUTS, INPUTS = Filtering::INPUTS, POINTS = Filtering::POINTS;
    static constexpr int ALL_POINTS = POINTS * POINTS;

    const Layer &layer;
    const int64_t tiles = (layer.side + OUTPUTS - 1) / OUTPUTS;  // along one side
    // Odd, so that a pixel's points do not all want the same place in the cache.
    const int64_t stride = LANES * (layer.channels | 1);  // from one point to the next

    Place place_of(int64_t tile) const {
        int64_t within = tile % (tiles * tiles);
        return {tile / (tiles * tiles), within / tiles * OUTPUTS, within % tiles * OUTPUTS};
    }

    // How many of the outputs from here on are on the map.
    int inside(int64_t start) const { return std::min<int64_t>(OUTPUTS, layer.side - start); }

    // From the map to points (ALL_POINTS, channels, LANES).
    void to_points(Place place, float *points) const {
        const float *map = layer.maps + place.block * layer.side * layer.side * layer.channels * LANES;
        for (int64_t lane = 0; lane < layer.channels * LANES; lane += WIDTH) {
            Vector half[POINTS][INPUTS];
            for (int x = 0; x < INPUTS; x++) {
                int64_t column = place.column - 1 + x;
                Vector pixel[INPUTS], point[POINTS];
                for (int y = 0; y < INPUTS; y++) {
                    int64_t row = place.row - 1 + y;
                    bool there = 0 <= row && row < layer.side && 0 <= column && column < layer.side;
                    int64_t at = (row * layer.side + column) * layer.channels * LANES + lane;
                    pixel[y] = there ? load(map + at) : Vector{};
                }
                Filtering::to_points(pixel, point);
                for (int y = 0; y < POINTS; y++) half[y][x] = point[y];
            }
            for (int y = 0; y < POINTS; y++) {
                Vector point[POINTS];
                Filtering::to_points(half[y], point);
                for (int x = 0; x < POINTS; x++) store(points + (y * POINTS + x) * stride + lane, point[x]);
            }
        }
    }

    // From points of the channels to points (ALL_POINTS, PANEL, LANES) of one panel of kernels.
    template <int KERNELS>
    void multiply(const float *points, const float *weights, float *products) const {
        for (int point = 0; point < ALL_POINTS; point++) {
            Vector sums[KERNELS][2] = {};
            for (int64_t channel = 0; channel < layer.channels; channel++) {
                Vector left = load(points + channel * LANES), right = load(points + channel * LANES + WIDTH);
#pragma GCC unroll 6
                for (int kernel = 0; kernel < KERNELS; kernel++) {
                    sums[kernel][0] += weights[kernel] * left;
                    sums[kernel][1] += weights[kernel] * right;
                }
                weights += KERNELS;
            }
            for (int kernel = 0; kernel < KERNELS; kernel++) {
                store(products + kernel * LANES, sums[kernel][0]);
                store(products + kernel * LANES + WIDTH, sums[kernel][1]);
            }
            points += stride;
            products += PANEL * LANES;
        }
    }

    // From the points of a panel's kernels to their outputs.
    void to_outputs(Place place, const float *products, int64_t first, int64_t kernels) const {
        int64_t side = layer.side, to_side = layer.pool ? side / 2 : side, step = layer.kernels * LANES;
        float *map = layer.outputs + place.block * to_side * to_side * step + first * LANES;
        int rows = inside(place.row), columns = inside(place.column);
        for (int64_t lane = 0; lane < kernels * LANES; lane += WIDTH) {
            Vector half[OUTPUTS][POINTS], pixel[OUTPUTS][OUTPUTS];
            for (int x = 0; x < POINTS; x++) {
                Vector point[POINTS], output[OUTPUTS];
                for (int y = 0; y < POINTS; y++) point[y] = load(products + (y * POINTS + x) * PANEL * LANES + lane);
                Filtering::to_outputs(point, output);
                for (int y = 0; y < OUTPUTS; y++) half[y][x] = output[y];
            }
            for (int y = 0; y < OUTPUTS; y++) Filtering::to_outputs(half[y], pixel[y]);
            int64_t kernel = first + lane / LANES;
            for (int y = 0; y < rows; y++)
                for (int x = 0; x < columns; x++) {
                    int64_t before = (place.block * side + place.row + y) * side + place.column + x;
                    pixel[y][x] = layer.ending.of(pixel[y][x], kernel, before * step + first * LANES + lane);
                }
            if (layer.pool) {
                for (int y = 0; y < rows; y += 2)
                    for (int x = 0; x < columns; x += 2) {
                        Vector above = larger(pixel[y][x], pixel[y][x + 1]);
                        Vector below = larger(pixel[y + 1][x], pixel[y + 1][x + 1]);
                        int64_t at = (place.row + y) / 2 * to_side + (place.column + x) / 2;
                        store(map + at * step + lane, larger(above, below));
                    }
                continue;
            }
            for (int y = 0; y < rows; y++)
                for (int x = 0; x < columns; x++)
                    store(map + ((place.row + y) * side + place.column + x) * step + lane, pixel[y][x]);
        }
    }

    bool run() const {
        int64_t of_tile = ALL_POINTS * stride, of_panel = ALL_POINTS * PANEL * LANES;
        int64_t all = layer.blocks * tiles * tiles;
        // So many tiles meet a panel one after the other: as many as stay in the cache, but more if the weights,
        // which are read again for them, are too many for it.
        int64_t fitting = POINTS_BYTES / (of_tile * int64_t(sizeof(float))), wanted = layer.kernels / (2 * LANES);
        int64_t at_once = std::min(all, std::max({fitting, wanted, int64_t(1)}));
        int64_t bytes = (of_panel + at_once * of_tile) * sizeof(float);
        void *memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (!memory) return false;
        float *products = static_cast<float *>(memory), *points = products + of_panel;
        int64_t panels = (layer.kernels + PANEL - 1) / PANEL;
        for (int64_t start = 0; start < all; start += at_once) {
            int64_t count = std::min(at_once, all - start);
            for (int64_t tile = 0; tile < count; tile++) to_points(place_of(start + tile), points + tile * of_tile);
            for (int64_t panel = 0; panel < panels; panel++) {
                int64_t first = layer.kernels * panel / panels;
                int64_t kernels = layer.kernels * (panel + 1) / panels - first;
                const float *weights = layer.weights + ALL_POINTS * layer.channels * first;
                for (int64_t tile = 0; tile < count; tile++) {
                    const float *of = points + tile * of_tile;
                    switch (kernels) {
                        case 1: multiply<1>(of, weights, products); break;
                        case 2: multiply<2>(of, weights, products); break;
                        case 3: multiply<3>(of, weights, products); break;
                        case 4: multiply<4>(of, weights, products); break;
                        case 5: multiply<5>(of, weights, products); break;
                        default: multiply<PANEL>(of, weights, products);
                    }
                    to_outputs(place_of(start + tile), products, first, kernels);
                }
            }
        }
        std::free(memory);
        return true;
    }
};

// Which pixels a kernel of any size meets. Python hands it over as so many numbers.
struct Window {
    int64_t blocks, rows, columns, channels, to_rows, to_columns, kernels, kernel_rows, kernel_columns;
    int64_t stride_rows, stride_columns, padding_rows, padding_columns, dilation_rows, dilation_columns;
};

// The taps of a kernel along one dimension that are on the map.
struct Taps {
    int64_t from, first, end;  // where tap 0 would be; the taps that are there

    Taps(int64_t place, int64_t stride, int64_t padding, int64_t dilation, int64_t taps, int64_t size)
        : from(place * stride - padding),
          first(from < 0 ? std::min(taps, (-from + dilation - 1) / dilation) : 0),
          end(from < size ? std::min(taps, (size - 1 - from) / dilation + 1) : 0) {}
};

// A layer of kernels of any size, tap by tap.
struct Direct {
    static constexpr int64_t PIXELS = 8;  // that meet a panel one after the other, for their maps to stay in the cache

    const Window &window;
    Ending ending;
    const float *maps;     // (blocks, rows, columns, channels, LANES)
    const float *weights;  // for every panel (kernel_rows, kernel_columns, channels, its kernels)
    float *outputs;        // (blocks, to_rows, to_columns, kernels, LANES)

    // What a pixel of the outputs meets: its block's map, and the taps that are on it.
    struct Meeting {
        const float *map;
        Taps down, right;
    };

    INLINE Meeting meeting(const Window &window, const float *maps, int64_t at) {
        int64_t row = at / window.to_columns % window.to_rows, column = at % window.to_columns;
        int64_t block = at / (window.to_rows * window.to_columns);
        return {maps + block * window.rows * window.columns * window.channels * LANES,
                Taps(row, window.stride_rows, window.padding_rows, window.dilation_rows, window.kernel_rows,
                     window.rows),
                Taps(column, window.stride_columns, window.padding_columns, window.dilation_columns,
                     window.kernel_columns, window.columns)};
    }

    // All kernels of a panel on one pixel of the outputs.
    template <int KERNELS>
    void pixel(int64_t at, const float *panel, int64_t first) const {
        auto [map, down, right] = meeting(window, maps, at);
        Vector sums[KERNELS][2] = {};
        for (int64_t y = down.first; y < down.end; y++)
            for (int64_t x = right.first; x < right.end; x++) {
                int64_t place = (down.from + y * window.dilation_rows) * window.columns
                                + right.from + x * window.dilation_columns;
                const float *values = map + place * window.channels * LANES;
                const float *taps = panel + (y * window.kernel_columns + x) * window.channels * KERNELS;
                for (int64_t channel = 0; channel < window.channels; channel++) {
                    Vector left = load(values + channel * LANES), right = load(values + channel * LANES + WIDTH);
#pragma GCC unroll 6
                    for (int kernel = 0; kernel < KERNELS; kernel++) {
                        sums[kernel][0] += taps[kernel] * left;
                        sums[kernel][1] += taps[kernel] * right;
                    }
                    taps += KERNELS;
                }
            }
        for (int kernel = 0; kernel < KERNELS; kernel++)
            for (int half = 0; half < 2; half++) {
                int64_t to = (at * window.kernels + first + kernel) * LANES + half * WIDTH;
                store(outputs + to, ending.of(sums[kernel][half], first + kernel, to));
            }
    }

    void run() const {
        int64_t all = window.blocks * window.to_rows * window.to_columns;
        int64_t panels = (window.kernels + PANEL - 1) / PANEL;
        for (int64_t start = 0; start < all; start += PIXELS)
            for (int64_t panel = 0; panel < panels; panel++) {
                int64_t first = window.kernels * panel / panels;
                int64_t kernels = window.kernels * (panel + 1) / panels - first;
                const float *of = weights + window.kernel_rows * window.kernel_columns * window.channels * first;
                for (int64_t at = start; at < std::min(all, start + PIXELS); at++) switch (kernels) {
                        case 1: pixel<1>(at, of, first); break;
                        case 2: pixel<2>(at, of, first); break;
                        case 3: pixel<3>(at, of, first); break;
                        case 4: pixel<4>(at, of, first); break;
                        case 5: pixel<5>(at, of, first); break;
                        default: pixel<PANEL>(at, of, first);
                    }
            }
    }

    // Depthwise: the same number of kernels for each channel, with weights (kernels, kernel_rows, kernel_columns).
    void run_depthwise() const {
        int64_t all = window.blocks * window.to_rows * window.to_columns, of_channel = window.kernels / window.channels;
        for (int64_t at = 0; at < all; at++) {
            auto [map, down, right] = meeting(window, maps, at);
            for (int64_t kernel = 0; kernel < window.kernels; kernel++) {
                Vector sums[2] = {};
                for (int64_t y = down.first; y < down.end; y++)
                    for (int64_t x = right.first; x < right.end; x++) {
                        int64_t place = (down.from + y * window.dilation_rows) * window.columns
                                        + right.from + x * window.dilation_columns;
                        const float *values = map + (place * window.channels + kernel / of_channel) * LANES;
                        float tap = weights[(kernel * window.kernel_rows + y) * window.kernel_columns + x];
                        sums[0] += tap * load(values);
                        sums[1] += tap * load(values + WIDTH);
                    }
                for (int half = 0; half < 2; half++) {
                    int64_t to = (at * window.kernels + kernel) * LANES + half * WIDTH;
                    store(outputs + to, ending.of(sums[half], kernel, to));
                }
            }
        }
    }
};

extern "C" {

int lanes() { return LANES; }

// Weights (kernels, channels, taps) panel by panel: for every panel (taps, channels, its kernels).
void lay_out(int64_t taps, int64_t channels, int64_t kernels, const float *weights, float *to) {
    int64_t panels = (kernels + PANEL - 1) / PANEL;
    for (int64_t panel = 0; panel < panels; panel++) {
        int64_t first = kernels * panel / panels, end = kernels * (panel + 1) / panels;
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t channel = 0; channel < channels; channel++)
                for (int64_t kernel = first; kernel < end; kernel++)
                    *to++ = weights[(kernel * channels + channel) * taps + tap];
    }
}

// The same of the points of weights (kernels, channels, 9): the matrix (points, 9) times their taps.
void lay_out_points(int64_t points, int64_t channels, int64_t kernels, const double *matrix, const float *weights,
                    float *to) {
    constexpr int TAPS = 9;
    int64_t panels = (kernels + PANEL - 1) / PANEL;
    for (int64_t panel = 0; panel < panels; panel++) {
        int64_t first = kernels * panel / panels, count = kernels * (panel + 1) / panels - first;
        for (int64_t channel = 0; channel < channels; channel++) {
            double taps[TAPS][PANEL] = {};
            for (int64_t kernel = 0; kernel < count; kernel++)
                for (int tap = 0; tap < TAPS; tap++)
                    taps[tap][kernel] = weights[((first + kernel) * channels + channel) * TAPS + tap];
            for (int64_t point = 0; point < points; point++) {
                double sums[PANEL] = {};
                for (int tap = 0; tap < TAPS; tap++)
                    for (int kernel = 0; kernel < PANEL; kernel++)
                        sums[kernel] += matrix[point * TAPS + tap] * taps[tap][kernel];
                float *place = to + (point * channels + channel) * count;
                for (int64_t kernel = 0; kernel < count; kernel++) place[kernel] = float(sums[kernel]);
            }
        }
        to += points * channels * count;
    }
}

// Images (count, values) in blocks (blocks, values, LANES), the last one filled up with zeros.
void place(int64_t count, int64_t values, const float *images, float *maps) {
    constexpr int64_t PIECE = 8192 / (LANES * sizeof(float));  // values whose lanes stay in the cache
    for (int64_t block = 0; block < count; block += LANES, maps += values * LANES)
        for (int64_t start = 0; start < values; start += PIECE) {
            int64_t end = std::min(start + PIECE, values);
            for (int64_t image = block; image < block + LANES; image++)
                for (int64_t value = start; value < end; value++)
                    maps[value * LANES + image - block] = image < count ? images[image * values + value] : 0.f;
        }
}

// Whether there was the memory.
bool minimal_filtering(int64_t blocks, int64_t side, int64_t channels, int64_t kernels, bool relu, bool relu_of_sum,
                       bool pool, const float *maps, const float *weights, const float *bias, const float *added,
                       float *outputs) {
    Layer layer{blocks, side, channels, kernels, {bias, relu, added, relu_of_sum}, pool, maps, weights, outputs};
    return side > 2 ? Convolution<Four>{layer}.run() : Convolution<Two>{layer}.run();
}

void direct(const Window *window, bool relu, bool relu_of_sum, bool depthwise, const float *maps, const float *weights,
            const float *bias, const float *added, float *outputs) {
    Direct layer{*window, {bias, relu, added, relu_of_sum}, maps, weights, outputs};
    depthwise ? layer.run_depthwise() : layer.run();
}
}
