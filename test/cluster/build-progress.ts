// Builds a list of programs one after the other and shows the whole time which one it is at and how much is left. binaries.ts
// calls it with the Go build; the estimate is build-estimate.ts's.
import { type Done, type Step, standingText } from "./build-estimate.ts";
import type { Log } from "./exec.ts";

export interface BuildOptions<S extends Step> {
  readonly log: Log;
  build(step: S): Promise<void>;
  /** Milliseconds of any clock that does not go back. */
  readonly clock?: () => number;
  /** Between two lines about one program. Unset: a terminal's line is replaced once a second, new lines are rarer. */
  readonly beatMs?: number;
}

/** Silence of a build that goes on is at most this long. */
const beatMsDefault = 15_000;
const replaceMs = 1_000;

/** Fails with the first build that fails; those before it are done. */
export async function buildAll<S extends Step>(steps: readonly S[], options: BuildOptions<S>): Promise<void> {
  const { log, build, clock = () => performance.now(), beatMs = options.log.replace ? replaceMs : beatMsDefault } = options;
  const show = log.replace ?? log;
  const done: Done[] = [];
  for (const [index, step] of steps.entries()) {
    const started = clock();
    const seconds = (): number => (clock() - started) / 1000;
    const tell = (): void => show(standingText({ done, now: { ...step, seconds: seconds() }, ahead: steps.slice(index + 1) }));
    tell();
    const beat = setInterval(tell, beatMs);
    try {
      await build(step);
    } finally {
      clearInterval(beat);
      log.replace?.("");
    }
    done.push({ usualSeconds: step.usualSeconds, seconds: seconds() });
    log(`[${index + 1}/${steps.length}] ${step.program} … ${Math.round(seconds())} s`);
  }
}
