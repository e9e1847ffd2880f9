"use strict";
// Draws the figures in the reader's colour scheme; sorts and filters tables. No network.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 600px)");
  const touch = window.matchMedia("(pointer: coarse)");
  const entries = JSON.parse(document.getElementById("figures").textContent);
  const config = {
    responsive: true,
    displaylogo: false,
    // plotly.js 4 offers to upload the plot to its makers' server unless told not to.
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  function themed(entry) {
    const figure = structuredClone(entry.figure);
    if (dark.matches) {
      for (const [path, value] of entry.dark) {
        const last = path[path.length - 1];
        path.slice(0, -1).reduce((at, key) => at[key], figure)[last] = value;
      }
    }
    // Zoom survives a change of scheme; a finger on a plot scrolls the page.
    figure.layout.uirevision = "kept";
    if (touch.matches) figure.layout.dragmode = false;
    if (narrow.matches && figure.layout.meta) figure.layout.height = figure.layout.meta.narrow_height;
    return figure;
  }

  async function drawAll() {
    for (const [id, entry] of Object.entries(entries)) {
      const figure = themed(entry);
      const node = document.getElementById(id);
      node.style.height = `${figure.layout.height}px`;
      await Plotly.react(node, figure.data, figure.layout, config);
    }
    document.documentElement.dataset.drawn = "true";
  }

  function showView(button) {
    const { figure, view } = button.dataset;
    Plotly.relayout(document.getElementById(figure), entries[figure].views[view]);
    for (const other of button.parentElement.children) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  }

  function sortBy(heading) {
    const table = heading.closest("table");
    const index = heading.cellIndex;
    const numeric = heading.classList.contains("number");
    const up = heading.getAttribute("aria-sort") !== "ascending";
    const value = (row) => {
      const cell = row.cells[index];
      return numeric ? cell.dataset.value : cell.textContent;
    };
    const compare = (a, b) => {
      const [left, right] = [value(a), value(b)];
      // Missing values stay last in both directions.
      if (left === "" || right === "") return (left === "") - (right === "");
      const order = numeric ? left - right : left.localeCompare(right);
      return up ? order : -order;
    };
    const body = table.tBodies[0];
    body.append(...Array.from(body.rows).sort(compare));
    for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  }

  function filterRows(input) {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = document.querySelectorAll(`#${input.dataset.filters} tbody tr`);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  }

  document.addEventListener("click", (event) => {
    const view = event.target.closest("button[data-view]");
    if (view) showView(view);
    const sort = event.target.closest("table[data-sortable] thead button");
    if (sort) sortBy(sort.closest("th"));
  });
  document.addEventListener("input", (event) => {
    if (event.target.dataset.filters) filterRows(event.target);
  });
  if (Object.keys(entries).length > 0) {
    dark.addEventListener("change", drawAll);
    narrow.addEventListener("change", drawAll);
    drawAll();
  }
})();
