// How long ranks compute an answer whose client left: nothing tells its end, so they are asked.
import { setTimeout as sleep } from "node:timers/promises";
import type { Workers } from "../routing/failover.ts";

const lookEveryMs = 1_000;
/** So many looks in turn at which no rank has it: a busy one may be late with its answer. */
const missesMax = 5;
/** Ranks drop what nobody has read for 60 s. */
const unreadMsMax = 65_000;

/** Resolves with the tokens of these kept answers once no rank computes one of them any more. */
export async function untilOver(
  ids: readonly string[],
  workers: Pick<Workers, "kept">,
  signal: AbortSignal,
  everyMs = lookEveryMs,
): Promise<number> {
  const endsAt = performance.now() + unreadMsMax;
  let sum = 0;
  for (const id of ids) {
    let [tokens, misses] = [0, 0];
    while (misses < missesMax && performance.now() < endsAt) {
      const found = await workers.kept?.(id);
      tokens = found?.tokens ?? tokens;
      if (found?.over) break;
      misses = found ? 0 : misses + 1;
      await sleep(everyMs, undefined, { signal, ref: false });
    }
    sum += tokens;
  }
  return sum;
}
