// Things to try on the cluster that `npm run demo -- --keep` leaves running. The endpoint is the Service, which stays the same when the
// gateways are replaced. Pure; main.ts prints it.
import { servicePath } from "../kit/deployment/product.ts";
import { bold } from "./view.ts";

export interface Left {
  readonly namespace: string;
  /** The name of the MoEDeployment, which is that of its Service and of the model. */
  readonly model: string;
  /** The Service's own address, where this machine has a route to it; undefined when it did not come to that. */
  readonly url: string | undefined;
  /** The name of the local cluster; undefined for the user's own. */
  readonly local: string | undefined;
  /** The flags by which kubectl finds the user's own cluster. */
  readonly kubectlFlags: readonly string[];
  /** What to ask the endpoint. */
  readonly request: { readonly path: string; readonly body: object };
  /** Further commands that ask it. */
  readonly asked: readonly string[];
  /** Commands that need no endpoint. */
  readonly more: readonly string[];
}

const proxyPort = 8001;

export function nextLines(left: Left): string[] {
  const { local, url } = left;
  return [
    `\n${bold("Left running.")} Try:`,
    ...(local === undefined ? [] : [`  eval "$(npm run -s cluster -- env --name ${local})"    # KUBECONFIG; kubectl and helm on PATH`]),
    ...(url === undefined ? [] : endpointLines(left, url)),
    ...left.more.map((command) => `  ${command}`),
    ...(local === undefined ? [] : [`  npm run cluster -- down --name ${local}`]),
  ];
}

function endpointLines({ namespace, model, local, kubectlFlags, request, asked }: Left, url: string): string[] {
  const proxied = `http://127.0.0.1:${proxyPort}${servicePath({ name: model, namespace })}`;
  const body = JSON.stringify(request.body);
  return [
    ...(local === undefined ? [`  ${["kubectl", ...kubectlFlags].join(" ")} proxy --port=${proxyPort} &`] : []),
    `  export ENDPOINT=${local === undefined ? proxied : url}    # the Service: it stays when gateways are replaced`,
    `  curl -sS "$ENDPOINT${request.path}" -H 'content-type: application/json' -d '${body}'`,
    ...asked.map((command) => `  ${command}`),
  ];
}
