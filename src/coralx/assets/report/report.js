"use strict";
// Draws each figure from the JSON beside it and carries out what the drop-down lists ask for.
(function () {
  const read = (block) => JSON.parse(block.textContent);
  const templates = read(document.getElementById("templates"));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const template = () => templates[dark.matches ? "dark" : "light"];
  const plots = Array.from(document.querySelectorAll(".plot"));
  const config = {
    displaylogo: false,
    displayModeBar: "hover",
    modeBarButtons: [["toImage", "resetScale2d"]],
  };

  for (const place of plots) {
    const figure = read(place.nextElementSibling);
    figure.layout.template = template();
    Plotly.newPlot(place, figure.data, figure.layout, config);
  }

  const resized = new ResizeObserver((entries) => {
    for (const entry of entries) Plotly.Plots.resize(entry.target);
  });
  plots.forEach((place) => resized.observe(place));

  dark.addEventListener("change", () => {
    for (const place of plots) Plotly.relayout(place, { template: template() });
  });

  function swapAxis(place, axis, column) {
    const columns = place.data.map((trace) => trace.meta.columns[column]);
    Plotly.update(place, { [axis]: columns }, {
      [axis + "axis.title.text"]: place.layout.meta.titles[column],
      [axis + "axis.autorange"]: true,
    });
  }

  const actions = {
    x: (place, value) => swapAxis(place, "x", Number(value)),
    y: (place, value) => swapAxis(place, "y", Number(value)),
    xscale: (place, value) => Plotly.relayout(place, {
      "xaxis.type": value, "xaxis.dtick": value === "log" ? 1 : null, "xaxis.autorange": true, "yaxis.autorange": true,
    }),
    only: (place, value) => Plotly.restyle(place, {
      visible: place.data.map((trace) => value === "all" || trace.meta.group === value),
    }),
  };

  for (const list of document.querySelectorAll("select[data-action]")) {
    list.addEventListener("change", () => {
      for (const place of list.closest("figure").querySelectorAll(".plot")) {
        actions[list.dataset.action](place, list.value);
      }
    });
  }
})();
