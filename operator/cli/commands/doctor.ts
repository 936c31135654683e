// `enodia doctor`: asks the cluster what an install needs, and where there is one, how it stands. Changes nothing: what it posts are
// reviews of rights and one dry run. Not here: the questions (../doctor/, one file each).
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { remoteSourceOf, remoteSources } from "../../../crds/model.ts";
import { accessAt, askServer } from "../../../runtime/net/nats.ts";
import type { Context } from "../doctor/check.ts";
import { count, examine } from "../doctor/index.ts";
import { findOperators } from "../doctor/operator.ts";
import { doctorText } from "../doctor-text.ts";
import { sourceSecrets } from "../environment.ts";
import { kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { asksForJson, outputFlag, outputFlagHelp } from "../output-flag.ts";
import { version } from "../version.ts";
import { pause } from "../watch.ts";

const usage = `usage: enodia doctor [options]

Before an install: whether the cluster has what the chart, the ranks and their models need. With one: whether the operator leads, has its
rights and the CRDs of its version, and hears its deployments. Says what to do about each thing that is not well. Changes nothing.

      --model URI        tries the source of a model, from here: hf://, s3:// or https://, with HF_TOKEN, AWS_* or AUTHORIZATION
      --claim NAME       of the namespace, that it is to be downloaded to: whether it is large enough
      --nats URL         tries your own NATS, from here: nats://HOST:PORT, or tls:// where it has a certificate
      --nats-credentials PATH  a file with its token or .creds, or a folder with one of them and ca.crt
${outputFlagHelp}
${kubeFlagsHelp}
                         here: of the deployments that there are to be

Exits with 1 when something failed. What could not be asked counts as neither.

examples  enodia doctor -n serving
          enodia doctor --nats tls://nats.example.com:4222 --nats-credentials ./nats`;

export const options = {
  ...kubeFlags,
  ...outputFlag,
  model: { type: "string" },
  claim: { type: "string" },
  nats: { type: "string" },
  "nats-credentials": { type: "string" },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** A source that is busy is asked again for so long. */
const sourceMsMax = 20_000;

export async function run(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({ args: [...args], options });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const json = asksForJson(values);
  const model = modelOf(values.model, values.claim);
  const nats = natsOf(values.nats, values["nats-credentials"]);
  const { kube, transport, namespace } = openCluster(values);
  const operators = await findOperators(kube);
  const over = new AbortController();
  const context = { nats, model, kube, transport, namespace, operators, version, now: new Date(), sleep: pause, signal: over.signal };
  const examined = await examine(context);
  over.abort();
  process.stdout.write(`${json ? JSON.stringify(examined, null, 2) : doctorText(examined)}\n`);
  return count(examined).fail > 0 ? 1 : 0;
}

function natsOf(url: string | undefined, credentials: string | undefined): Context["nats"] {
  if (url === undefined && credentials !== undefined) throw new AppError("--nats-credentials needs --nats URL", { code: "BadOption" });
  if (url === undefined) return undefined;
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (!parsed || !["nats:", "tls:"].includes(parsed.protocol) || parsed.username !== "" || parsed.password !== "")
    throw new AppError("--nats must be nats://HOST:PORT or tls://HOST:PORT; a token belongs into --nats-credentials", {
      code: "BadOption",
    });
  const access = credentials === undefined ? undefined : accessAt(credentials);
  return { host: parsed.host, ask: () => askServer({ url, access, name: "enodia doctor" }) };
}

function modelOf(uri: string | undefined, claim: string | undefined): Context["model"] {
  if (uri === undefined && claim !== undefined) throw new AppError("--claim needs --model URI", { code: "BadOption" });
  if (uri === undefined) return undefined;
  const forms = Object.values(remoteSources).map(({ form }) => form);
  if (remoteSourceOf(uri) === undefined) throw new AppError(`--model: "${uri}" is none of ${forms.join(", ")}`, { code: "BadOption" });
  const secrets = sourceSecrets();
  return {
    uri,
    claim,
    ask: async () => {
      const { askSource } = await import("../../../runtime/modelstore/download/index.ts");
      return askSource({ uri, secret: (key) => secrets[key], withinMs: sourceMsMax });
    },
  };
}
