// The script of the operator's page, as the browser loads it: an ES module that is served as it stands, so that nobody has to build it.
// It takes states by server-sent events, puts sections in their places, draws the map of a layer and switches between light and dark.

const byId = (id) => document.getElementById(id);

/** Words of the connection, read out when they change. */
function say(words) {
  const live = byId("live");
  if (live.textContent !== words) live.textContent = words;
}

// Light and dark: the system's choice, unless the reader makes another.

const themes = ["system", "light", "dark"];
const themeKey = "enodia-theme";

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  map.draw();
}

function remembered() {
  try {
    return themes.find((theme) => theme === localStorage.getItem(themeKey)) ?? "system";
  } catch {
    return "system"; // a browser may keep nothing for this page
  }
}

function nextTheme() {
  const theme = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  try {
    localStorage.setItem(themeKey, theme);
  } catch {
    // it holds until the page is left
  }
  showTheme(theme);
}

// The map of a layer.

/** An expert replica that has come is framed for so long. */
const freshMs = 10_000;
const cell = { least: 6, most: 28, pixelsMax: 16e6 };
const margin = { left: 34, right: 52, bottom: 18 };
const initials = { prefill: "P", decode: "D" };

const rowsOf = (text) => (text === "" ? [] : text.split(",").map((row) => row.split(".").map(Number)));

/** Cells by "rank/expert": the part of the expert's rows, and whether it is the primary. */
function cellsOf({ hosts, weights }) {
  const parts = rowsOf(weights);
  const cells = new Map();
  rowsOf(hosts).forEach((row, expert) => {
    row.forEach((rank, i) => {
      cells.set(`${rank}/${expert}`, { share: parts[expert][i] / 1000, primary: i === 0 });
    });
  });
  return cells;
}

class LayerMap {
  #canvas = byId("map");
  #heat;
  #now = new Map();
  #next = new Map();
  /** Cells that came, and until when they are framed. */
  #fresh = new Map();
  /** Row and column of the cursor. */
  #at = { row: 0, column: 0 };

  constructor() {
    if (!this.#canvas) return;
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("focus", () => this.#tell());
    this.#canvas.addEventListener("blur", () => this.draw());
    addEventListener("resize", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(heat) {
    if (!this.#canvas) return;
    const before = this.#heat?.layer === heat?.layer ? this.#now : undefined;
    this.#heat = heat ?? undefined;
    this.#now = heat ? cellsOf(heat) : new Map();
    this.#next = heat?.next ? cellsOf(heat.next) : new Map();
    if (before === undefined) this.#fresh.clear();
    else {
      for (const key of this.#now.keys()) if (!before.has(key)) this.#fresh.set(key, Date.now() + freshMs);
      setTimeout(() => this.draw(), freshMs + 100);
    }
    this.draw();
  }

  get #experts() {
    return rowsOf(this.#heat.hosts).length;
  }

  #sizes() {
    const { ranks } = this.#heat;
    const experts = this.#experts;
    const scale = devicePixelRatio || 1;
    const least = experts * ranks.length * (cell.least * scale) ** 2 > cell.pixelsMax ? 1 : cell.least;
    const free = this.#canvas.parentElement.clientWidth - margin.left - margin.right;
    const across = Math.max(least, Math.floor(free / experts));
    const down = Math.min(cell.most, Math.max(least, Math.floor(480 / ranks.length)));
    return { scale, across, down, width: margin.left + experts * across + margin.right, height: ranks.length * down + margin.bottom };
  }

  draw() {
    const canvas = this.#canvas;
    if (!canvas) return;
    canvas.hidden = !this.#heat || this.#experts === 0;
    if (canvas.hidden) return;
    const { scale, width, height, across, down } = this.#sizes();
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const { layer, ranks } = this.#heat;
    canvas.setAttribute(
      "aria-label",
      `Layer ${layer}: ${ranks.length} ranks by ${this.#experts} experts, ${this.#now.size} expert replicas`,
    );
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    // A colour that follows the scheme has a value only where it is used as one.
    const resolved = (name) => {
      canvas.style.color = `var(--${name})`;
      const { color } = getComputedStyle(canvas);
      canvas.style.color = "";
      return color;
    };
    const inks = Object.fromEntries(["heat", "text", "line", "come", "go", "fresh", "focus"].map((name) => [name, resolved(name)]));
    this.#cells(pen, { across, down, inks });
    this.#labels(pen, { across, down, inks });
    if (document.activeElement === canvas) this.#frame(pen, { across, down, ink: inks.focus, ...this.#at });
  }

  /** How much of the darkest cell's rows each cell has; its share alone while no load is known. */
  #weights() {
    const { expertPercent } = this.#heat;
    const rows = (key, { share }) => (expertPercent ? share * (expertPercent[Number(key.split("/")[1])] ?? 0) : share);
    const all = [...this.#now].map(([key, one]) => [key, rows(key, one)]);
    const most = all.reduce((max, [, value]) => Math.max(max, value), 0) || 1;
    return all.map(([key, value]) => [key, value / most]);
  }

  #placeOf(key) {
    const [rank, expert] = key.split("/").map(Number);
    return { row: this.#heat.ranks.indexOf(rank), column: expert };
  }

  #cells(pen, { across, down, inks }) {
    const gap = across > 4 && down > 4 ? 1 : 0;
    pen.fillStyle = inks.heat;
    for (const [key, weight] of this.#weights()) {
      const { row, column } = this.#placeOf(key);
      pen.globalAlpha = 0.15 + 0.85 * weight;
      pen.fillRect(margin.left + column * across, row * down, across - gap, down - gap);
    }
    pen.globalAlpha = 1;
    for (const [key, until] of this.#fresh) {
      if (until < Date.now() || !this.#now.has(key)) this.#fresh.delete(key);
      else this.#frame(pen, { across, down, ink: inks.fresh, ...this.#placeOf(key) });
    }
    if (!this.#heat.next) return;
    for (const key of this.#next.keys()) if (!this.#now.has(key)) this.#frame(pen, { across, down, ink: inks.come, ...this.#placeOf(key) });
    for (const key of this.#now.keys()) if (!this.#next.has(key)) this.#cross(pen, { across, down, ink: inks.go, ...this.#placeOf(key) });
  }

  #frame(pen, { across, down, ink, row, column }) {
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.strokeRect(margin.left + column * across + 1, row * down + 1, across - 3, down - 3);
  }

  #cross(pen, { across, down, ink, row, column }) {
    const [x, y] = [margin.left + column * across, row * down];
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(x + 2, y + 2);
    pen.lineTo(x + across - 3, y + down - 3);
    pen.moveTo(x + across - 3, y + 2);
    pen.lineTo(x + 2, y + down - 3);
    pen.stroke();
  }

  #labels(pen, { across, down, inks }) {
    const { ranks, rankPercent, roles = [] } = this.#heat;
    const experts = this.#experts;
    pen.fillStyle = inks.text;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const every = Math.ceil(14 / down);
    ranks.forEach((rank, row) => {
      if (row % every !== 0) return;
      pen.textAlign = "right";
      pen.fillText(`${initials[roles[row]] ?? ""}${rank}`, margin.left - 6, (row + 0.5) * down);
      pen.textAlign = "left";
      if (rankPercent) pen.fillText(`${rankPercent[row]}%`, margin.left + experts * across + 6, (row + 0.5) * down);
    });
    const step = Math.ceil(32 / across);
    pen.textAlign = "center";
    for (let expert = 0; expert < experts; expert += step)
      pen.fillText(String(expert), margin.left + (expert + 0.5) * across, ranks.length * down + 10);
  }

  #key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (!move || !this.#heat) return;
    event.preventDefault();
    const within = (value, size) => Math.min(size - 1, Math.max(0, value));
    this.#at = { row: within(this.#at.row + move[0], this.#heat.ranks.length), column: within(this.#at.column + move[1], this.#experts) };
    this.#tell();
  }

  #point(event) {
    if (!this.#heat) return;
    const { across, down } = this.#sizes();
    const row = Math.floor(event.offsetY / down);
    const column = Math.floor((event.offsetX - margin.left) / across);
    if (row < 0 || column < 0 || row >= this.#heat.ranks.length || column >= this.#experts) return;
    this.#at = { row, column };
    byId("map-cell").textContent = this.#words();
  }

  #tell() {
    if (!this.#heat) return;
    byId("map-cell").textContent = this.#words();
    this.draw();
  }

  #words() {
    const { ranks, expertPercent, roles = [] } = this.#heat;
    const { row, column } = this.#at;
    const key = `${ranks[row]}/${column}`;
    const now = this.#now.get(key);
    const next = this.#heat.next && this.#next.get(key);
    const asked = expertPercent ? `, which is asked for ${expertPercent[column]}% of a rank's mean` : "";
    const held = now
      ? `${now.primary ? "primary" : "expertReplica"}, takes ${(now.share * 100).toFixed(1)}% of the rows`
      : "does not have it";
    const comes = this.#heat.next && !now && next ? "; it comes" : "";
    const goes = this.#heat.next && now && !next ? "; it goes" : "";
    const role = roles[row] ? ` (${roles[row]})` : "";
    return `Rank ${ranks[row]}${role}, expert ${column}${asked}: ${held}${comes}${goes}.`;
  }
}

const map = new LayerMap();

// States.

/** Puts new HTML in its place and leaves the reader where they were. */
function put(id, text) {
  const place = byId(`s-${id}`);
  const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
  place.innerHTML = text;
  localTimes(place);
  if (focused !== "") byId(focused)?.focus();
}

function localTimes(place) {
  for (const time of place.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    const today = date.toDateString() === new Date().toDateString();
    time.title = time.dateTime;
    time.textContent = today ? date.toLocaleTimeString() : date.toLocaleString();
  }
}

function take(state) {
  // Another page is there now: that of a replica that leads, or of what has come or gone meanwhile.
  if (Object.keys(state.sections).some((id) => !byId(`s-${id}`))) return location.reload();
  for (const [id, text] of Object.entries(state.sections)) put(id, text);
  if ("heat" in state) map.show(state.heat);
  say("live");
}

const againMs = 5_000;
let source;
/** What is said while a replica answers that does not lead. */
let waiting;

function connect() {
  if (!document.body.dataset.events || document.hidden) return;
  source?.close();
  source = new EventSource(document.body.dataset.events);
  source.addEventListener("state", ({ data }) => {
    waiting = undefined;
    take(JSON.parse(data));
  });
  source.addEventListener("standby", ({ data }) => {
    waiting = `waiting: ${JSON.parse(data).leader ?? "nobody"} leads`;
    say(waiting);
  });
  source.addEventListener("tooLarge", () => say("this page is too large to be sent"));
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return say(waiting ?? "not connected, trying again");
    // An answer that is no stream ends it: too many look on, or who looks has to sign in again.
    say("refused, trying again; reload to sign in");
    setTimeout(connect, againMs);
  });
}

// A page that nobody sees takes no stream.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else connect();
});

byId("theme").hidden = false;
byId("theme").addEventListener("click", nextTheme);
showTheme(remembered());
localTimes(document);
connect();
