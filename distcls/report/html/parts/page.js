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
  else if (!event.target.closest?.(".chart svg, .heat")) tip.hidden = true;
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

// Confusions: a click on a cell, or on a count in the list, shows the images of that cell.
for (const part of document.querySelectorAll(".confusion")) {
  const data = JSON.parse(part.querySelector("script").textContent), shown = part.querySelector(".shown");
  const heat = part.querySelector(".heat img");
  const show = cell => {
    const [i, j] = cell.split(",").map(Number), count = data.counts[cell];
    if (count === undefined) return;
    const title = i === j ? `${data.names[i]}, rightly predicted` : `${data.names[i]}, taken for ${data.names[j]}`;
    const images = data.images[cell] ?? [], gallery = element("div", "", "gallery");
    for (const image of images) {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      const thumb = element("span", "", image.class);
      thumb.style.cssText = image.style;
      for (const line of image.tip.split("\n")) {
        const text = element("span", line, line === image.tip.split("\n")[0] ? "dim name" : "dim");
        text.title = line;
        caption.append(text);
      }
      figure.append(thumb, caption);
      gallery.append(figure);
    }
    const kept = images.length ? (images.length < count ? `${images.length} of ${count}` : `${count}`) : `${count}, none of them kept`;
    shown.replaceChildren(element("h3", title), element("p", `Images: ${kept}`, "note"), gallery);
    shown.hidden = false;
    for (const button of part.querySelectorAll("[data-cell]")) button.classList.toggle("on", button.dataset.cell === cell);
    shown.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  part.addEventListener("click", event => {
    const button = event.target.closest("[data-cell]");
    if (button) show(button.dataset.cell);
  });
  if (!heat) continue;
  const cellAt = event => {
    const box = heat.getBoundingClientRect(), n = part.querySelector(".heat").dataset.classes;
    const index = (at, start, length) => Math.min(n - 1, Math.max(0, Math.floor((at - start) / length * n)));
    return `${index(event.clientY, box.top, box.height)},${index(event.clientX, box.left, box.width)}`;
  };
  heat.addEventListener("click", event => show(cellAt(event)));
  heat.addEventListener("pointerleave", () => { tip.hidden = true; });
  heat.addEventListener("pointermove", event => {
    const cell = cellAt(event), [i, j] = cell.split(",").map(Number);
    const lines = [`true ${data.names[i]}`, `predicted ${data.names[j]}`, `${data.counts[cell] ?? "no or few"} images`];
    showTip(event, lines.map(line => element("div", line)));
  });
}
