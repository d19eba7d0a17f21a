"use strict";
// Sorting and filtering of the table of opportunities. Without scripts the page is whole, in order of rank.
const table = document.getElementById("table");
const body = table.tBodies[0];
const filter = document.getElementById("filter");
const shown = document.getElementById("shown");

function sortBy(key, heading) {
  const falling = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const rows = [...body.rows];
  const numbers = rows.every((row) => row.dataset[key] !== "" && !Number.isNaN(Number(row.dataset[key])));
  rows.sort((a, b) => {
    const [x, y] = [a.dataset[key], b.dataset[key]];
    const order = numbers ? Number(x) - Number(y) : x.localeCompare(y);
    return (falling ? -order : order) || Number(a.dataset.rank) - Number(b.dataset.rank);
  });
  body.append(...rows);
}

function narrow() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of body.rows) {
    row.hidden = !words.every((word) => row.dataset.words.includes(word));
    if (!row.hidden) count += 1;
  }
  shown.value = words.length ? `${count} of ${body.rows.length}` : "";
}

for (const button of table.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.dataset.key, button.closest("th")));
}
filter.addEventListener("input", narrow);
