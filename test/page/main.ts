// `npm run test:page`: the operator's page in a real Chromium, over a story that the operator's own loop made. Checks that it is live,
// usable by keyboard, readable in light and dark and at 360 px, and loads nothing from elsewhere; writes screenshots to be looked at.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { deserialize, serialize } from "node:v8";
import type { Browser, Page } from "playwright-core";
import { type PageServer, servePage } from "../../operator/page/server.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { launchChromium } from "./browser.ts";
import { focused, ground, leastContrast, nameless, overflow, says, saysNot, shades } from "./probes.ts";
import { frameMs, record, type Story, type StoryFrame, tell } from "./story.ts";

const usage = `usage: npm run test:page [-- --out FOLDER] [--story FILE]

Needs Chromium: Debian's package chromium, or ENODIA_CHROMIUM with the path of another. Screenshots go to FOLDER, out/page when not given.
The story that is recorded first takes half a minute of computing: FILE keeps it for the next time.`;

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const waitMs = 180_000;
const narrow = { width: 360, height: 740 };
const wide = { width: 1280, height: 900 };
/** Of text against its background, as WCAG 2 wants it. */
const contrastMin = 4.5;

interface Stage {
  readonly browser: Browser;
  readonly server: PageServer;
  readonly story: Story;
  readonly show: (frame: StoryFrame) => void;
  readonly out: string;
}

/** A page whose every complaint fails the run, a violation of its security policy too, and every request to elsewhere. */
async function opened({ browser, server }: Stage, path: string, options: Parameters<Browser["newPage"]>[0]): Promise<Page> {
  const page = await browser.newPage(options);
  page.setDefaultTimeout(waitMs);
  const origin = `http://127.0.0.1:${server.port}`;
  page.on("pageerror", (error) => assert.fail(`the page's script failed: ${error.stack}`));
  page.on("console", (message) => message.type() === "error" && assert.fail(`the browser says: ${message.text()}`));
  page.on("request", (request) =>
    assert.ok(/^data:/.test(request.url()) || request.url().startsWith(`${origin}/`), `asked ${request.url()}`),
  );
  await page.goto(`${origin}/${path}`);
  await page.waitForFunction(says, ["#live", "live"] as const, { timeout: waitMs });
  return page;
}

async function isReadable(page: Page, what: string): Promise<void> {
  const { ratio, text } = await page.evaluate(leastContrast);
  assert.ok(ratio >= contrastMin, `${what}: the contrast of "${text}" is ${ratio.toFixed(2)}, less than ${contrastMin}`);
  const wider = await page.evaluate(overflow);
  assert.ok(wider <= 0, `${what}: the page is ${wider} px wider than the screen`);
}

async function fleet(stage: Stage): Promise<void> {
  const page = await opened(stage, "", { viewport: wide, colorScheme: "light" });
  assert.deepEqual(await page.evaluate(nameless), []);
  await isReadable(page, "fleet, light");
  await page.screenshot({ path: `${stage.out}/fleet-light.png` });
  // By the keyboard alone to the deployment's page.
  await page.keyboard.press("Tab");
  assert.equal((await page.evaluate(focused)).className, "skip");
  for (let n = 0; n < 20; n++) {
    if ((await page.evaluate(focused)).id === "d-serving-chat") break;
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  await page.waitForURL(/deployment\?namespace=serving&name=chat/);
  await page.close();
}

/** Before, during and after a rebalance, without the page being loaded again. */
async function moves(stage: Stage): Promise<void> {
  const { frames } = stage.story;
  const begins = frames.findIndex(({ placement }, i) => i > 0 && placement.underWay && !frames[i - 1]?.placement.underWay);
  const ends = frames.findIndex(({ placement }, i) => i > begins && !placement.underWay);
  assert.ok(begins > 0 && ends > begins, "the story has a rebalance");
  const during = frames[Math.floor((begins + ends) / 2)] as StoryFrame;
  const layer = [...(during.placement.underWay?.phases.keys() ?? [])][0];
  stage.show(frames[begins - 1] as StoryFrame);
  const page = await opened(stage, `deployment?namespace=serving&name=chat&layer=${layer}`, { viewport: wide, colorScheme: "dark" });
  stage.show(during);
  await page.waitForFunction(says, ["#s-placement", "Under way"] as const, { timeout: waitMs });
  await page.screenshot({ path: `${stage.out}/deployment-dark.png`, fullPage: true });
  await isReadable(page, "deployment, dark");
  assert.deepEqual(await page.evaluate(nameless), []);
  assert.ok((await page.evaluate(shades)) > 8, "the map has many shades");
  stage.show(frames[Math.min(ends + 2, frames.length - 1)] as StoryFrame);
  await page.waitForFunction(saysNot, ["#s-placement", "Under way"] as const, { timeout: waitMs });
  await page.waitForFunction(says, ["#s-placement", `${(frames[ends] as StoryFrame).placement.plan?.epoch} Committed`] as const, {
    timeout: waitMs,
  });
  await cells(page);
  await theme(page, stage.out);
  await page.close();
}

async function cells(page: Page): Promise<void> {
  await page.focus("#map");
  const words = (): Promise<string | null> => page.textContent("#map-cell");
  assert.match((await words()) ?? "", /^Rank 0, expert 0/);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.match((await words()) ?? "", /^Rank 1, expert 2/);
}

async function theme(page: Page, out: string): Promise<void> {
  const dark = await page.evaluate(ground);
  await page.focus("#theme");
  await page.keyboard.press("Enter");
  assert.equal(await page.textContent("#theme"), "Theme: light");
  assert.notEqual(await page.evaluate(ground), dark);
  await isReadable(page, "deployment, light");
  await page.screenshot({ path: `${out}/deployment-light.png`, fullPage: true });
  await page.reload();
  assert.equal(await page.textContent("#theme"), "Theme: light", "it is remembered");
}

async function small(stage: Stage): Promise<void> {
  for (const [path, name] of [
    ["", "fleet"],
    ["deployment?namespace=serving&name=chat", "deployment"],
    ["deployment?namespace=tenants&name=code-assistant", "findings"],
    ["job?namespace=research&name=writer", "job"],
  ] as const) {
    const page = await opened(stage, path, { viewport: narrow, colorScheme: "light", deviceScaleFactor: 2 });
    await isReadable(page, `${name}, narrow`);
    await page.screenshot({ path: `${stage.out}/${name}-narrow.png`, fullPage: true });
    await page.close();
  }
  const wrong = await opened(stage, "deployment?namespace=tenants&name=code-assistant", { viewport: wide, colorScheme: "light" });
  assert.ok(await wrong.evaluate(says, ["#s-findings", "kubectl -n tenants edit moed code-assistant"] as const), "the command is there");
  await isReadable(wrong, "findings, light");
  await wrong.screenshot({ path: `${stage.out}/findings-light.png` });
  await wrong.close();
  const page = await opened(stage, "job?namespace=research&name=writer", { viewport: wide, colorScheme: "light" });
  assert.deepEqual(await page.evaluate(nameless), []);
  await page.screenshot({ path: `${stage.out}/job-light.png`, fullPage: true });
  await page.close();
}

const steps: readonly (readonly [name: string, run: (stage: Stage) => Promise<void>])[] = [
  ["a rebalance as it happens, the map by the keyboard, light and dark", moves],
  ["the fleet, and by the keyboard to a deployment", fleet],
  ["360 px, and a training job", small],
];

async function storyOf(file: string | undefined): Promise<Story> {
  say(`playing the story; a frame is ${frameMs} ms`);
  const story = file !== undefined && existsSync(file) ? (deserialize(readFileSync(file)) as Story) : await record();
  if (file !== undefined) writeFileSync(file, serialize(story));
  say(`${story.frames.length} frames, ${story.frames.filter(({ placement }) => placement.underWay).length} of them within a rebalance`);
  return story;
}

async function look(browser: Browser, story: Story, out: string): Promise<void> {
  mkdirSync(out, { recursive: true });
  const { pageState, now, show } = tell(story);
  show(story.frames[0] as StoryFrame);
  const server = await servePage({
    pageState,
    access: "PortForward",
    port: 0,
    token: async () => undefined,
    rightsOf: () => async () => false,
    log: silentLog,
    now,
  });
  try {
    for (const [name, run] of steps) {
      await run({ browser, server, story, show, out });
      say(`ok: ${name}`);
    }
    say(`screenshots: ${out}`);
  } finally {
    await server.close();
  }
}

async function main(): Promise<void> {
  const options = { out: { type: "string" }, story: { type: "string" }, help: { type: "boolean" } } as const;
  const { out, story, help } = parseArgs({ options }).values;
  if (help) return say(usage);
  const browser = await launchChromium();
  try {
    await look(browser, await storyOf(story), resolve(out ?? "out/page"));
  } finally {
    await browser.close();
  }
}

await main();
