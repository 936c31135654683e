// Questions that are asked inside of the browser: each function is sent there as text, so that it may use nothing from around it. The types
// of a browser are not those of this program, which is why they are loose here.

// biome-ignore-start lint/suspicious/noExplicitAny: the browser's own objects, of which Node has no types
declare const document: any;
declare const getComputedStyle: any;
declare const OffscreenCanvas: any;

/** The least contrast among the texts of a page, as WCAG 2 counts it, and whose it is. */
export function leastContrast(): { readonly ratio: number; readonly text: string } {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour: string): readonly number[] => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour: readonly number[]): number => {
    const [r = 0, g = 0, b = 0] = colour.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let least = { ratio: 21, text: "" };
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node: any) => node.nodeType === 3 && node.textContent.trim() !== "");
    if (!own || element.getClientRects().length === 0) continue;
    let behind = element;
    while (behind.parentElement && rgba(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const text = light(rgba(getComputedStyle(element).color));
    const ground = light(rgba(getComputedStyle(behind).backgroundColor));
    const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    if (ratio < least.ratio) least = { ratio, text: element.textContent.slice(0, 60) };
  }
  return least;
}

/** Pixels by which the page is wider than the screen. */
export const overflow = (): number => document.documentElement.scrollWidth - document.documentElement.clientWidth;

/** What a screen reader would find without a name. */
export function nameless(): readonly string[] {
  const all = document.querySelectorAll('svg[role="img"], canvas, button, a, input:not([type="hidden"]), select, [role="region"]');
  const unnamed = [...all].filter((each: any) => {
    const label = each.getAttribute("aria-label") ?? each.getAttribute("aria-labelledby") ?? each.textContent.trim();
    return label === "" && document.querySelector(`label[for="${each.id}"]`) === null;
  });
  return unnamed.map((each: any) => each.outerHTML.slice(0, 80));
}

/** Different colours of the map's pixels. */
export function shades(): number {
  const map = document.querySelector("#map");
  const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
  const seen = new Set<string>();
  for (let i = 0; i < data.length; i += 4) seen.add(`${data[i]}/${data[i + 1]}/${data[i + 2]}/${data[i + 3]}`);
  return seen.size;
}

/** The rows of the tables in a place; each is its cells as they are read. */
export const tableRows = (selector: string): readonly (readonly string[])[] =>
  [...document.querySelectorAll(`${selector} tbody tr`)].map((row: any) => [...row.cells].map((cell: any) => cell.textContent.trim()));

export const focused = (): { readonly id: string; readonly className: string } => {
  const { id, className } = document.activeElement;
  return { id, className };
};

export const ground = (): string => getComputedStyle(document.body).backgroundColor;

export const says = ([selector, text]: readonly [selector: string, text: string]): boolean =>
  document.querySelector(selector)?.textContent.includes(text) === true;

export const saysNot = ([selector, text]: readonly [selector: string, text: string]): boolean =>
  document.querySelector(selector)?.textContent.includes(text) === false;
// biome-ignore-end lint/suspicious/noExplicitAny: the browser's own objects, of which Node has no types
