// The report of a cluster when an e2e test has failed, printed at once: later tests and the end of the run change or remove it.
import { afterEach } from "node:test";
import { kubectlOf, systemNamespace } from "../kit/deployment/product.ts";
import type { Kubectl } from "../kit/kube/kubectl.ts";
import { scrape } from "../kit/kube/scrape.ts";
import type { Deployed } from "./world.ts";

const logLines = 40;
const charactersPerLine = 400;

/** Call once at the top of a file; `deployed` gives what the failed test worked on, if it is there yet. */
export function explainFailures(deployed: () => Deployed | undefined): void {
  afterEach(async (context) => {
    const moe = deployed();
    if (!("passed" in context) || context.passed || !moe) return;
    const parts = [
      await text(moe.kubectl, ["get", "moed,eplace,pods", "-o", "wide"]),
      await text(moe.kubectl, [
        "get",
        "moed",
        moe.name,
        "-o",
        "jsonpath={range .status.conditions[*]}{.type}={.status} {.reason} {.message}{'\\n'}{end}",
      ]),
      await text(moe.kubectl, ["get", "events", "--sort-by=.lastTimestamp"]),
      ...(await podReports(moe.kubectl, moe.namespace, true)),
      ...(await podReports(kubectlOf(moe.target, systemNamespace), systemNamespace, false)),
    ];
    for (const line of parts.join("\n").split("\n")) process.stderr.write(`# | ${line.slice(0, charactersPerLine)}\n`);
  });
}

async function text(kubectl: Kubectl, args: readonly string[]): Promise<string> {
  const { stdout, stderr } = await kubectl.try(args);
  return `$ kubectl ${args.join(" ")}\n${lastLines(stdout + stderr)}`;
}

/** Last lines of each pod's log, and of the runtime's pods the counters and gauges that are not zero. */
async function podReports(kubectl: Kubectl, namespace: string, runtime: boolean): Promise<string[]> {
  const pods = await kubectl.list("pods").catch(() => []);
  return Promise.all(
    pods.map(async ({ metadata: { name } }) => {
      const log = await text(kubectl, ["logs", name, `--tail=${logLines}`]);
      return runtime ? `${log}\n${await metricsOf(kubectl, namespace, name)}` : log;
    }),
  );
}

async function metricsOf(kubectl: Kubectl, namespace: string, pod: string): Promise<string> {
  try {
    return (await scrape(kubectl, namespace, pod))
      .filter(({ name, value }) => value !== 0 && name.startsWith("enodia_") && !name.endsWith("_bucket"))
      .map(({ name, labels, value }) => {
        const own = Object.entries(labels).filter(([key]) => key !== "namespace" && key !== "deployment" && key !== "rank");
        return `${name}{${own.map(([key, label]) => `${key}=${label}`).join(",")}} ${value}`;
      })
      .join("\n");
  } catch (error) {
    return `no metrics of ${pod}: ${String(error)}`;
  }
}

const lastLines = (output: string): string => output.trimEnd().split("\n").slice(-logLines).join("\n");
