// Checks the API server's version, which the chart and the CRDs' CEL rules need.
import { z } from "zod";
import { type Check, fail, type Outcome, ok, read } from "./check.ts";

/** The chart's `kubeVersion`; 1.x. */
export const leastMinor = 31;

const versionSchema = z.object({ gitVersion: z.string(), platform: z.string().default("") });

export function judgeVersion(document: unknown): Outcome {
  const { gitVersion } = versionSchema.parse(document);
  const [, major, minor] = /^v?(\d+)\.(\d+)/.exec(gitVersion) ?? [];
  if (Number(major) === 1 && Number(minor) >= leastMinor) return ok(`${gitVersion}; 1.${leastMinor} is the least`);
  return fail(
    `${gitVersion} is older than 1.${leastMinor}, which the chart and the CRDs need`,
    `upgrade the cluster to 1.${leastMinor} or newer`,
  );
}

export const apiServer: Check = {
  name: "API server",
  when: "always",
  run: async ({ transport }) => [judgeVersion(await read(transport, "/version"))],
};
