
(() => {
  const MAX_DECODED = 240; // frames kept as pictures
  const AHEAD = 8; // frames decoded before they are due
  const HEIGHT = 100; // of a curve, in the units of its drawing
  const PADDING = 0.06; // of a curve's range, above and below
  const LEAST_SHARE = 0.02; // of the dataset's range: a smaller range is not enlarged

  const { byId, root, shown, make, readJson, clamp, written, floats } = flux;
  const page = readJson("page-data");
  const canvases = [...document.querySelectorAll("#cameras canvas")];
  const scrubber = byId("scrubber");
  const rows = new Map(
    [...document.querySelectorAll("#episodes tbody tr")].map((row) => [row.dataset.episode, row]),
  );

  // ---- Pictures: a frame is shown once the pictures of all cameras are decoded.

  let episode = null; // {index, frames, lines, state, action}; frames is 0 without pictures
  let frame = 0; // the one on the page
  let asked = 0; // the one to draw next
  let decoded = new Map(); // frame -> promise of its pictures
  let wanted = null;
  let isDrawing = false;

  const decode = async (text) => {
    const image = new Image();
    image.src = `data:image/webp;base64,${text}`;
    await image.decode();
    return image;
  };

  const picturesOf = (index) => {
    if (!decoded.has(index)) {
      if (decoded.size >= MAX_DECODED) decoded.delete(decoded.keys().next().value);
      const texts = page.cameras ? episode.lines[index].split(" ") : [];
      decoded.set(index, Promise.all(texts.map(decode)));
    }
    return decoded.get(index);
  };

  const draw = (pictures) => {
    pictures.forEach((picture, camera) => {
      const canvas = canvases[camera];
      if (canvas.width !== picture.naturalWidth || canvas.height !== picture.naturalHeight) {
        canvas.width = picture.naturalWidth;
        canvas.height = picture.naturalHeight;
      }
      canvas.getContext("2d").drawImage(picture, 0, 0);
    });
  };

  const show = async (index) => {
    asked = clamp(index, 0, episode.frames - 1);
    wanted = { episode, index: asked };
    if (isDrawing) return;
    isDrawing = true;
    try {
      while (wanted) {
        const request = wanted;
        wanted = null;
        if (request.episode !== episode || episode.frames === 0) continue;
        const pictures = await picturesOf(request.index);
        if (request.episode !== episode) continue;
        draw(pictures);
        frame = request.index;
        tellFrame(pictures.length);
      }
    } finally {
      isDrawing = false;
    }
  };

  const time = (index) => `${(index / page.fps).toFixed(2)} s`;

  const tellFrame = (cameras) => {
    scrubber.value = frame;
    byId("position").textContent = `frame ${frame} / ${episode.frames - 1} · ${time(frame)}`;
    moveCursor();
    Object.assign(shown, { episode: episode.index, frame, cameras });
    remember();
  };

  let remembering = 0;
  const remember = () => {
    clearTimeout(remembering);
    remembering = setTimeout(() => {
      if (!isPlaying) history.replaceState(null, "", `#episode=${episode.index}&frame=${frame}`);
    }, 250);
  };

  // ---- Playing

  let isPlaying = false;
  let begin = { time: 0, frame: 0 };

  const startClock = () => (begin = { time: performance.now(), frame: asked });

  const setPlaying = (value) => {
    isPlaying = value && episode.frames > 1;
    root.classList.toggle("playing", isPlaying);
    if (!isPlaying) return remember();
    if (asked >= episode.frames - 1) asked = 0;
    startClock();
    requestAnimationFrame(tick);
  };

  const tick = (now) => {
    if (!isPlaying) return;
    const passed = Math.max(now - begin.time, 0) / 1000;
    const next = begin.frame + Math.floor(passed * page.fps * Number(byId("speed").value));
    const last = episode.frames - 1;
    show(next);
    for (let i = next + 1; i <= Math.min(next + AHEAD, last); i++) picturesOf(i);
    if (next >= last) setPlaying(false);
    else requestAnimationFrame(tick);
  };

  const seek = (index) => {
    if (!episode.frames) return;
    setPlaying(false);
    show(index);
  };
  const step = (count) => seek(asked + count);

  // ---- Curves

  const valueAt = (kind, dim, index) => {
    const values = episode[kind];
    return values[index * (values.length / episode.frames) + dim];
  };

  const curves = page.panels.map((panel) => {
    const kinds = Object.keys(panel.dims);
    const paths = kinds.map((kind) => make("path", { class: kind }));
    const cursor = make("line", { class: "cursor", y1: 0, y2: HEIGHT });
    const hover = make("line", { class: "hover", y1: 0, y2: HEIGHT, visibility: "hidden" });
    const svg = make("svg", { preserveAspectRatio: "none" }, ...paths, hover, cursor);
    const top = make("small", { class: "top" });
    const bottom = make("small", { class: "bottom" });
    const end = make("span");
    const axis = make("div", { class: "row ends" }, make("span", {}, "0 s"), end);
    const plot = make("div", { class: "plot" }, svg, top, bottom, axis);
    const values = kinds.map((kind) => make("span", { class: kind }));
    const caption = make("figcaption", {}, panel.name, make("output", {}, ...values));
    const figure = make("figure", {}, caption, plot);
    document.querySelector("#curves .grid").append(figure);
    const pointed = (event) => {
      const box = svg.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      return clamp(Math.round(share * (episode.frames - 1)), 0, episode.frames - 1);
    };
    plot.addEventListener("pointerdown", (event) => {
      plot.setPointerCapture(event.pointerId);
      seek(pointed(event));
    });
    plot.addEventListener("pointermove", (event) => {
      moveHover(pointed(event));
      if (event.buttons & 1) seek(pointed(event));
    });
    plot.addEventListener("pointerleave", () => moveHover(null));
    return { panel, kinds, paths, cursor, hover, svg, top, bottom, end, values };
  });

  const drawCurve = ({ panel, kinds, paths, svg, top, bottom, end }) => {
    let low = Infinity;
    let high = -Infinity;
    const series = kinds.map((kind) =>
      Array.from({ length: episode.frames }, (_, i) => valueAt(kind, panel.dims[kind], i)),
    );
    for (const value of series.flat()) {
      if (!Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (low > high) [low, high] = [0, 1];
    const least = LEAST_SHARE * panel.span || 1e-6;
    const widening = Math.max((least - (high - low)) / 2, 0);
    const padding = PADDING * (high - low + 2 * widening);
    const [from, to] = [low - widening - padding, high + widening + padding];
    series.forEach((values, which) => {
      let text = "";
      let isGap = true;
      values.forEach((value, i) => {
        const isFinite = Number.isFinite(value);
        const y = HEIGHT * (1 - (value - from) / (to - from));
        if (isFinite) text += `${isGap ? "M" : "L"}${i} ${y.toFixed(2)}`;
        isGap = !isFinite;
      });
      paths[which].setAttribute("d", text);
    });
    svg.setAttribute("viewBox", `0 0 ${Math.max(episode.frames - 1, 1)} ${HEIGHT}`);
    top.textContent = written(to, to - from);
    bottom.textContent = written(from, to - from);
    end.textContent = time(episode.frames - 1);
  };

  const tellValues = (index) => {
    for (const { panel, kinds, values } of curves) {
      kinds.forEach((kind, which) => {
        const value = valueAt(kind, panel.dims[kind], index);
        values[which].textContent = written(value, panel.span);
      });
    }
    if (curves.length) byId("moment").textContent = `values at frame ${index}, ${time(index)}`;
  };

  let hovered = null;
  const moveHover = (index) => {
    hovered = index;
    for (const { hover } of curves) {
      hover.setAttribute("visibility", index === null ? "hidden" : "visible");
      for (const end of ["x1", "x2"]) hover.setAttribute(end, index ?? 0);
    }
    tellValues(index ?? frame);
  };

  const moveCursor = () => {
    for (const { cursor } of curves) {
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, frame);
    }
    tellValues(hovered ?? frame);
  };

  // ---- Episodes

  const open = (index) => {
    const block = byId(`episode-${index}`);
    if (!block) return { index, frames: 0 };
    const { frames, state, action } = readJson(`episode-${index}`);
    return {
      index,
      frames,
      lines: byId(`pictures-${index}`).textContent.split("\n"),
      state: state && floats(state),
      action: action && floats(action),
    };
  };

  const choose = (index, atFrame = 0) => {
    const row = rows.get(String(index));
    if (!row) return;
    if (episode) setPlaying(false);
    for (const old of document.querySelectorAll("#episodes [aria-current]")) {
      old.removeAttribute("aria-current");
      old.tabIndex = -1;
    }
    row.setAttribute("aria-current", "true");
    row.tabIndex = 0;
    reveal(row);
    episode = open(String(index));
    decoded = new Map();
    hovered = null;
    const isAbsent = episode.frames === 0;
    byId("title").textContent = `Episode ${index}`;
    byId("task").textContent = row.cells[1].textContent;
    byId("cameras").hidden = byId("controls").hidden = isAbsent;
    byId("absent").hidden = !isAbsent;
    byId("absent").textContent =
      `Episode ${index} has no ${page.cameras ? "pictures" : "curves"} on this page. ` +
      `To make a page with them: flux-data view … --episodes ${index}-${index}`;
    if (byId("curves")) {
      byId("curves").hidden = isAbsent;
      byId("curves-of").textContent = `of episode ${index}`;
    }
    scrubber.max = Math.max(episode.frames - 1, 0);
    if (isAbsent) {
      frame = 0;
      byId("position").textContent = "";
      Object.assign(shown, { episode: index, frame: "", cameras: 0 });
      remember();
      return;
    }
    curves.forEach(drawCurve);
    show(atFrame);
  };

  const reveal = (row) => {
    const box = row.closest(".scroll");
    const head = row.closest("table").tHead.offsetHeight;
    const [top, bottom] = [row.offsetTop - head, row.offsetTop + row.offsetHeight];
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  };

  const neighbour = (direction, isWanted) => {
    const key = direction > 0 ? "nextElementSibling" : "previousElementSibling";
    let row = rows.get(String(episode.index))[key];
    while (row && !isWanted(row)) row = row[key];
    return row;
  };
  const turn = (direction, isWanted) => {
    const row = neighbour(direction, isWanted);
    if (row) choose(row.dataset.episode);
    return row;
  };

  const sortBy = (column) => {
    const heads = [...document.querySelectorAll("#episodes th")];
    const isDown = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const keyed = [...rows.values()].map((row) => {
      const text = row.cells[column].textContent;
      return [column === 1 ? text : Number(text), row];
    });
    const sign = isDown ? -1 : 1;
    keyed.sort(([a], [b]) => sign * (a < b ? -1 : a > b ? 1 : 0));
    document.querySelector("#episodes tbody").append(...keyed.map(([, row]) => row));
  };

  // ---- The visitor's actions

  const body = document.querySelector("#episodes tbody");
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(row.dataset.episode);
  });
  document.querySelectorAll("#episodes th button").forEach((button, column) => {
    button.addEventListener("click", () => sortBy(column));
  });
  byId("play").addEventListener("click", () => setPlaying(!isPlaying));
  byId("back").addEventListener("click", () => step(-1));
  byId("on").addEventListener("click", () => step(1));
  byId("speed").addEventListener("change", startClock);
  scrubber.addEventListener("input", () => seek(Number(scrubber.value)));

  const actions = {
    ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
    ArrowRight: (event) => step(event.shiftKey ? 10 : 1),
    Home: () => seek(0),
    End: () => seek(episode.frames - 1),
    " ": () => setPlaying(!isPlaying),
    p: () => turn(-1, (row) => row.classList.contains("shown")),
    n: () => turn(1, (row) => row.classList.contains("shown")),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (target.tagName === "SELECT" || (event.key === " " && target.tagName === "BUTTON")) return;
    const isVertical = event.key === "ArrowUp" || event.key === "ArrowDown";
    if (isVertical && body.contains(target)) {
      turn(event.key === "ArrowDown" ? 1 : -1, () => true)?.focus({ preventScroll: true });
    } else if (Object.hasOwn(actions, event.key)) {
      actions[event.key](event);
    } else {
      return;
    }
    event.preventDefault();
  });

  const follow = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const first = document.querySelector("#episodes tbody tr.shown").dataset.episode;
    const index = rows.has(asked.get("episode")) ? asked.get("episode") : first;
    const at = Number(asked.get("frame")) || 0;
    if (episode && episode.index === index) seek(at);
    else choose(index, at);
  };
  addEventListener("hashchange", follow);
  follow();
})();
