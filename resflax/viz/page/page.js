"use strict";

// The cursor of a chart: moved by the pointer, or by the arrow keys when the chart has the focus.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const step = chart.querySelector(".step");
  const values = chart.querySelectorAll("li output");
  const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
    points: line.points,
    steps: line.dataset.steps.split(" ").map(Number),
    values: line.dataset.values.split(" "),
  }));
  const steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const places = steps.map((one) => {
    const line = lines.find((other) => other.steps.includes(one));
    return line.points[line.steps.indexOf(one)].x;
  });
  let at = steps.length - 1;

  // Each line says the last value it had at that step.
  function show(index) {
    at = Math.max(0, Math.min(steps.length - 1, index));
    step.textContent = steps[at].toLocaleString("en");
    lines.forEach((line, row) => {
      const point = line.steps.findLastIndex((one) => one <= steps[at]);
      values[row].textContent = point < 0 ? "-" : line.values[point];
    });
    cursor.setAttribute("x1", places[at]);
    cursor.setAttribute("x2", places[at]);
    cursor.removeAttribute("hidden");
  }

  svg.addEventListener("pointermove", (event) => {
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const distances = places.map((place) => Math.abs(place - x));
    show(distances.indexOf(Math.min(...distances)));
  });
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
    if (move) {
      event.preventDefault();
      show(at + move);
    }
  });
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
