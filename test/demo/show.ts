// The frame that the demos share: a show is a list of steps, each of which does one thing that a user would do and checks that it held,
// with the times that it aims at and the things to try afterwards. To add a show: its folder, and one line in shows.ts.
import type { buildImages, Log, Target } from "../kit/deployment/product.ts";
import { installChart, provideImages } from "../kit/deployment/product.ts";
import type { Machine } from "./aims.ts";
import type { Result } from "./view.ts";

/** What every show has; each adds what its own steps find. */
export interface Demo {
  readonly namespace: string;
  readonly signal: AbortSignal;
  readonly log: Log;
  readonly closers: (() => Promise<void>)[];
  /** Brings the cluster up, or checks the user's. */
  target(): Promise<Target>;
  cluster?: Target;
  /** Made while the cluster comes up. */
  images?: ReturnType<typeof buildImages>;
}

interface Step<Kind extends Demo> {
  readonly title: string;
  /** True when the following steps make no sense without it. */
  readonly needed: boolean;
  run(demo: Kind): Promise<string>;
}

export interface Show<Kind extends Demo = Demo> {
  /** For --help. */
  readonly about: string;
  readonly namespace: string;
  readonly steps: readonly Step<Kind>[];
  /** True when a model has to be made that is kept between runs. */
  makesModel(): boolean;
  /** Makes it, unless it is there. */
  makeModel?(log: Log, signal: AbortSignal): Promise<unknown>;
  /** Rows of the closing table beside the steps and the total. */
  times(demo: Kind, machine: Machine): Result[];
  /** Files that the run leaves, to look at. */
  files(demo: Kind): string[];
  /** Things to try on the cluster that --keep leaves. */
  next(demo: Kind, cluster: Target): string[];
}

/** Nothing on any machine takes this long: it did not happen. How long it should take is an aim. */
export const stepGiveUpMs = 600_000;

async function bringUp(demo: Demo): Promise<string> {
  demo.cluster = { ...(await demo.target()), signal: demo.signal };
  const nodes = demo.cluster.local?.nodes.length;
  return nodes === undefined ? "your cluster" : `Kubernetes with ${nodes} nodes`;
}

async function install(demo: Demo): Promise<string> {
  if (!demo.cluster) throw new Error("no cluster");
  await provideImages(demo.cluster, demo.log, demo.images);
  await installChart(demo.cluster);
  return "operator (2 replicas) and NATS by Helm";
}

export const firstSteps: readonly Step<Demo>[] = [
  { title: "Kubernetes", needed: true, run: bringUp },
  { title: "Install by Helm", needed: true, run: install },
];
