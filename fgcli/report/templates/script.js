"use strict";
// Tables sort by the clicked column: numbers as numbers, what has none last.
const key = (row, column) => {
  const cell = row.cells[column];
  const number = parseFloat(cell.dataset.sort ?? cell.textContent);
  return Number.isNaN(number) ? cell.textContent.trim() : number;
};
const compare = (a, b) =>
  typeof a === typeof b ? (typeof a === "number" ? a - b : a.localeCompare(b)) : typeof a === "number" ? -1 : 1;
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => (typeof a === typeof b && down ? -1 : 1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  });
}
// Figures say their values where the pointer is, or a finger taps. Without this script the browser shows the titles.
const readout = document.getElementById("readout");
const hide = () => {
  readout.hidden = true;
  for (const cursor of document.querySelectorAll(".cursor")) cursor.style.visibility = "hidden";
};
for (const plot of document.querySelectorAll("svg")) {
  const cursor = plot.querySelector(".cursor");
  for (const place of plot.querySelectorAll(".strip, .marker, .published")) {
    const title = place.querySelector("title");
    const text = title.textContent;
    title.remove();
    place.setAttribute("aria-label", text);
    const show = (event) => {
      hide();
      readout.textContent = text;
      readout.hidden = false;
      if (place.dataset.x) {
        cursor.setAttribute("transform", `translate(${place.dataset.x} 0)`);
        cursor.style.visibility = "visible";
      }
      const { width, height } = readout.getBoundingClientRect();
      const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
      readout.style.left = `${Math.max(4, left)}px`;
      readout.style.top = `${Math.min(Math.max(4, event.clientY - height / 2), innerHeight - height - 4)}px`;
    };
    place.addEventListener("pointermove", show);
    place.addEventListener("pointerdown", show);
  }
  plot.addEventListener("pointerleave", hide);
}
addEventListener("scroll", hide, { passive: true });
