"use strict";
// Everything on the page is readable without this script: it sorts tables and shows values below the pointer.
const tip = document.getElementById("tip");

function showTip(event, children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 4)) + "px";
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Charts: the values of all lines at the position nearest to the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), source = chart.querySelector("script");
  if (!svg || !source) continue;
  const data = JSON.parse(source.textContent), pointer = svg.querySelector(".pointer");
  const hide = () => { pointer.setAttribute("visibility", "hidden"); tip.hidden = true; };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const nearest = data.lines.map(line => line.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    if (!nearest.length) return;
    const at = nearest.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    pointer.setAttribute("x1", at[0]);
    pointer.setAttribute("x2", at[0]);
    pointer.setAttribute("visibility", "visible");
    const rows = data.lines.map((line, i) => {
      const row = document.createElement("p");
      const far = Math.abs(nearest[i][0] - at[0]) > 1 ? ` (${data.x} ${nearest[i][2]})` : "";
      row.append(element("span", line.name + far, "s" + line.color), element("b", nearest[i][3]));
      return row;
    });
    showTip(event, [element("p", `${data.x} ${at[2]}`, "dim"), ...rows]);
  });
}

// Explanations of small things, such as the cells of a matrix.
document.addEventListener("pointerover", event => {
  const about = event.target.closest?.("[data-tip]");
  if (about) showTip(event, about.dataset.tip.split("\n").map(line => element("div", line)));
  else if (!event.target.closest?.(".chart svg")) tip.hidden = true;
});

// Tables: a click on a head sorts, a second one the other way round.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const th = button.parentElement, place = th.cellIndex, body = th.closest("table").tBodies[0];
    const key = row => row.cells[place].dataset.sort ?? row.cells[place].textContent.trim();
    const isNumber = th.classList.contains("number");
    const now = th.getAttribute("aria-sort");
    const down = now ? now === "ascending" : isNumber;
    for (const other of th.parentElement.cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => isNumber ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true });
    body.append(...[...body.rows].sort((a, b) => down ? compare(b, a) : compare(a, b)));
  });
}
