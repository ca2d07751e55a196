// Reading a plot: the values nearest to the pointer stand in its legend. Without script the legend shows the last ones.
for (const figure of document.querySelectorAll("figure.plot")) {
  const source = figure.querySelector("script.points");
  if (!source) continue;
  const series = JSON.parse(source.textContent);
  const svg = figure.querySelector("svg"), cursor = svg.querySelector(".cursor");
  const at = figure.querySelector(".at"), values = [...figure.querySelectorAll(".legend b")];
  const before = [at.textContent, ...values.map((value) => value.textContent)];
  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return x - points[low][0] <= points[high][0] - x ? points[low] : points[high];
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let place = null;
    series.forEach((points, index) => {
      if (points.length === 0) return;
      const point = nearest(points, x);
      values[index].textContent = point[2];
      if (place === null || Math.abs(point[0] - x) < Math.abs(place[0] - x)) place = point;
    });
    if (place === null) return;
    at.textContent = place[1];
    cursor.setAttribute("x1", place[0]);
    cursor.setAttribute("x2", place[0]);
    cursor.style.visibility = "visible";
  });
  svg.addEventListener("pointerleave", () => {
    [at, ...values].forEach((element, index) => { element.textContent = before[index]; });
    cursor.style.visibility = "hidden";
  });
}
