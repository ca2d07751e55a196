// What a report is like as a browser shows it, as JSON in an element of its own at the end.
(() => {
  const say = (element) => `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""} ${(element.textContent ?? "").slice(0, 40)}`;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const box = (element) => element.getBoundingClientRect();
  const visible = (element) => box(element).width > 0 && element.closest("caption, script, style, title, desc") === null;

  // Whatever reaches out of the window, but within what scrolls by itself.
  const outside = all("body *").filter((element) => visible(element) && element.parentElement.closest(".scroll, svg") === null)
    .filter((element) => box(element).right > innerWidth + 0.5 || box(element).left < -0.5).map(say);

  const texts = all("figure svg[role=img] text").filter(visible);
  const cut = texts.filter((text) => {
    const [inner, outer] = [box(text), box(text.ownerSVGElement)];
    return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.top < outer.top - 2 || inner.bottom > outer.bottom + 2;
  }).map(say);
  const tiny = texts.filter((text) => parseFloat(getComputedStyle(text).fontSize) * box(text.ownerSVGElement).width / 560 < 9.5).map(say);
  const overlapping = [];
  for (const svg of all("figure svg[role=img]")) {
    const within = all("text", svg);
    within.forEach((one, place) => within.slice(place + 1).forEach((other) => {
      const [a, b] = [box(one), box(other)];
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 4) overlapping.push(`${say(one)} / ${say(other)}`);
    }));
  }
  const unnamed = all("svg[role=img]").filter((svg) =>
    svg.getAttribute("aria-labelledby").split(" ").some((id) => !document.getElementById(id)?.textContent) ||
    all(`[id="${svg.querySelector("title").id}"]`).length !== 1).map(say);

  // WCAG's contrast of text and what is behind it: 4.5 at least.
  const rgb = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => rgb(colour).slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor, parts = rgb(colour);
      if (parts.length < 4 || parts[3] > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = all("body *").filter((element) => visible(element) && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((element) => {
      const style = getComputedStyle(element);
      const [a, b] = [light(element.closest("svg") ? style.fill : style.color), light(behind(element))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    }).map(say);

  const plots = all("figure.plot").map((figure) => {
    const svg = figure.querySelector("svg[role=img]");
    const paths = all("path.line", svg), bars = all("g.bar rect:not(.track)", svg).filter((bar) => box(bar).width > 0);
    const points = paths.map((path) => path.getAttribute("d").split("L").length).reduce((sum, count) => sum + count, 0);
    const marks = paths.length + bars.length + all("circle", svg).length;
    return { title: figure.querySelector("figcaption span").textContent, marks, points: points || bars.length,
      width: box(svg).width, empty: svg.querySelector(".empty") !== null };
  });

  // Reading the first plot under a pointer.
  let readout = null;
  const first = document.querySelector("figure.plot script.points")?.parentElement;
  if (first) {
    const svg = first.querySelector("svg[role=img]"), at = first.querySelector(".at"), area = box(svg);
    const before = at.textContent;
    svg.dispatchEvent(new PointerEvent("pointermove", { clientX: area.left + area.width / 2, clientY: area.top + 10 }));
    const during = at.textContent, cursor = getComputedStyle(svg.querySelector(".cursor")).visibility;
    svg.dispatchEvent(new PointerEvent("pointerleave"));
    readout = { before, during, cursor, after: at.textContent };
  }
  const found = { wrong, width: innerWidth, page_width: document.documentElement.scrollWidth, outside, cut, tiny, overlapping, unnamed, faint, plots, readout };
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(found);
  document.body.append(pre);
})();
