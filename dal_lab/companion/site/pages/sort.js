// Tables sort by the column whose heading is pressed: numbers by value, texts by letters, empty cells last.
"use strict";

function valueOf(cell) {
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const number = Number(text.replace(/,/g, "").replace("−", "-"));
  return text === "" ? null : Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(table, column, heading) {
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, value: valueOf(row.cells[column]) }));
  rows.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
    return sign * compare(a.value, b.value);
  });
  body.append(...rows.map((each) => each.row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table")) {
  if (!table.tHead || !table.tBodies.length || table.tBodies[0].rows.length < 2) continue;
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...heading.childNodes);
    if (!button.textContent.trim()) return;
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, column, heading));
  });
}

const codes = document.getElementById("codes");
if (codes) {
  codes.hidden = false;
  codes.addEventListener("click", () => {
    const show = codes.getAttribute("aria-pressed") !== "true";
    codes.setAttribute("aria-pressed", String(show));
    codes.textContent = show ? "Hide all code" : "Show all code";
    for (const each of document.querySelectorAll("details.code")) each.open = show;
  });
}

// A table, figure or formula that is wider than the window says that there is more.
const scrolling = document.querySelectorAll(".scroll, .formula, .notebook pre");
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) target.classList.toggle("more", target.scrollWidth > target.clientWidth + 1);
});
for (const each of scrolling) {
  watch.observe(each);
  for (const image of each.querySelectorAll("img")) image.addEventListener("load", () => watch.observe(each));
}

// A link to a figure or section inside a folded part opens it; printing opens all.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details.all")) each.open = true;
});
