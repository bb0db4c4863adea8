for (const table of document.querySelectorAll("table")) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length <= 20) continue;
  const box = document.createElement("input");
  box.type = "search";
  box.placeholder = `filter ${rows.length} rows`;
  box.setAttribute("aria-label", `Filter the rows of: ${table.caption.innerText}`);
  box.addEventListener("input", () => {
    for (const row of rows) row.hidden = !row.innerText.toLowerCase().includes(box.value.toLowerCase());
  });
  table.parentElement.before(box);
}
const unfold = () => {
  const part = document.getElementById(location.hash.slice(1));
  part?.querySelector(":scope > details")?.setAttribute("open", "");
};
addEventListener("hashchange", unfold);
unfold();
