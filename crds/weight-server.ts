// The environment of a weight server, the pod that has a model's whole store and serves ranks on other nodes.
import { ports } from "./common.ts";
import { type DownloadFacts, downloaderProcess } from "./download.ts";
import { parseQuantity } from "./quantity.ts";
import { rowsFrom, type SettingsOf, settings } from "./variables.ts";

/** Label of the pod and its Deployment. */
export const weightServerComponent = "weight-server";

const { rendered } = rowsFrom<DownloadFacts>();

/** A server without a download ignores `work` and `workInUse`. */
const { endFile: _, workInUse: __, ...download } = downloaderProcess;
export const weightServerProcess = {
  ...download,
  deploymentUid: rendered("ENODIA_DEPLOYMENT_UID", settings.uid, ({ deployment }) => deployment.metadata.uid),
  /** Size of its disk for a download; unset: it mounts the claim with the store. */
  sizeLimitBytes: rendered("ENODIA_MODEL_SIZE_LIMIT", settings.whole(1, Number.MAX_SAFE_INTEGER).optional(), ({ deployment }) => {
    const limit = deployment.spec.model.cache?.ephemeral?.sizeLimit;
    return limit === undefined ? undefined : String(parseQuantity(limit, "spec.model.cache.ephemeral.sizeLimit"));
  }),
  grpcPort: rendered("ENODIA_GRPC_PORT", settings.port.default(ports.grpc), () => String(ports.grpc)),
  probePort: rendered("ENODIA_PROBE_PORT", settings.port.default(ports.probes), () => String(ports.probes)),
};
export type WeightServerSettings = SettingsOf<typeof weightServerProcess>;
