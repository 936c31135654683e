// The contract between the operator and a weight server, the one pod that has a model's whole store and gives ranks on other nodes what they need
// of it: its environment. What a download needs is in it where the weight server keeps nothing but its own disk. Pure.
import { z } from "zod";
import { ports } from "./common.ts";
import { type DownloadFacts, downloaderProcess } from "./download.ts";
import { parseQuantity } from "./quantity.ts";
import { rowsFrom, type SettingsOf } from "./variables.ts";

/** The value of the label component of the pod and of its Deployment. */
export const weightServerComponent = "weight-server";

const { rendered } = rowsFrom<DownloadFacts>();
const port = (standard: number) => z.coerce.number<string>().int().min(0).max(65_535).default(standard);
const bytes = z.coerce.number<string>().int().min(1).optional();

/** `work` and `workInUse` are of no use to a weight server that downloads nothing. */
const { endFile: _, workInUse: __, ...download } = downloaderProcess;
export const weightServerProcess = {
  ...download,
  deploymentUid: rendered("ENODIA_DEPLOYMENT_UID", z.string().min(1).max(64), ({ deployment }) => deployment.metadata.uid),
  /** Bytes of the disk that it downloads into; unset: the store is in the claim that it mounts. */
  sizeLimitBytes: rendered("ENODIA_MODEL_SIZE_LIMIT", bytes, ({ deployment }) => {
    const limit = deployment.spec.model.cache?.ephemeral?.sizeLimit;
    return limit === undefined ? undefined : String(parseQuantity(limit, "spec.model.cache.ephemeral.sizeLimit"));
  }),
  grpcPort: rendered("ENODIA_GRPC_PORT", port(ports.grpc), () => String(ports.grpc)),
  probePort: rendered("ENODIA_PROBE_PORT", port(ports.probes), () => String(ports.probes)),
};
export type WeightServerSettings = SettingsOf<typeof weightServerProcess>;
