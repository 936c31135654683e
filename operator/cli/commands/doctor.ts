// `enodia doctor`: checks a cluster before and after an install. ../doctor has one file per check.
import { AppError } from "../../../crds/common.ts";
import { remoteSourceOf, remoteSources } from "../../../crds/model.ts";
import { accessAt, askServer } from "../../../runtime/net/nats.ts";
import { declare, text } from "../command.ts";
import type { Context } from "../doctor/check.ts";
import { count, examine } from "../doctor/index.ts";
import { findOperators } from "../doctor/operator.ts";
import { doctorText } from "../doctor-text.ts";
import { sourceSecrets } from "../environment.ts";
import { openCluster } from "../kube.ts";
import { asksForJson, clusterOptions, outputOptions } from "../options.ts";
import { version } from "../version.ts";
import { pause } from "../watch.ts";

/** Retries of a busy source. */
const sourceMsMax = 20_000;

export const command = declare({
  about:
    "Before an install: whether the cluster has what the chart, the ranks and their models need. With one: whether the operator leads, has its rights and the CRDs of its version, and hears its deployments. Says what to do about each thing that is not well. Changes nothing. Exits with 1 when something failed; what could not be asked counts as neither.",
  options: {
    ...clusterOptions,
    ...outputOptions,
    namespace: text("-n, --namespace <name>", 'of the deployments that there are to be (default: the context\'s, else "default")'),
    model: text("--model <uri>", "tries the source of a model, from here: hf://, s3:// or https://, with HF_TOKEN, AWS_* or AUTHORIZATION"),
    claim: text("--claim <name>", "of the namespace, that it is to be downloaded to: whether it is large enough"),
    nats: text("--nats <url>", "tries your own NATS, from here: nats://HOST:PORT, or tls:// where it has a certificate"),
    natsCredentials: text("--nats-credentials <path>", "a file with its token or .creds, or a folder with one of them and ca.crt"),
  },
  notes: `examples  enodia doctor -n serving
          enodia doctor --nats tls://nats.example.com:4222 --nats-credentials ./nats`,
  async action(options) {
    const json = asksForJson(options);
    const model = modelOf(options.model, options.claim);
    const nats = natsOf(options.nats, options.natsCredentials);
    const { kube, transport, namespace } = openCluster(options);
    const operators = await findOperators(kube);
    const over = new AbortController();
    const context = { nats, model, kube, transport, namespace, operators, version, now: new Date(), sleep: pause, signal: over.signal };
    const examined = await examine(context);
    over.abort();
    process.stdout.write(`${json ? JSON.stringify(examined, null, 2) : doctorText(examined)}\n`);
    return count(examined).fail > 0 ? 1 : 0;
  },
});

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
