// The key that this rank signs its load messages with: the newest one in the file of the mounted telemetry Secret, which the kubelet
// writes anew when the operator has rotated it. Without a readable one the rank serves all the same, and is not heard.
import { readFile } from "node:fs/promises";
import { AppError } from "../../crds/common.ts";
import { decodeTelemetryKeys, type TelemetryKey } from "../../crds/telemetry-keys.ts";
import type { Log } from "../observe/log.ts";

/** Reads the file at every call: it lies in memory, and load is reported a few times a second at most. */
export function signingKeyAt(path: string | undefined, log: Log): () => Promise<TelemetryKey | undefined> {
  let said = "";
  const say = (problem: string): undefined => {
    if (problem !== said && problem !== "") log.warn({ path, problem }, "no key to sign load messages with: none is sent");
    said = problem;
    return undefined;
  };
  return async () => {
    if (path === undefined) return say("none is configured");
    try {
      const [newest] = decodeTelemetryKeys(await readFile(path, "utf8"));
      say("");
      return newest;
    } catch (caught) {
      return say(
        caught instanceof AppError ? caught.message : `${path} cannot be read: the telemetry Secret is missing or not mounted yet`,
      );
    }
  };
}
