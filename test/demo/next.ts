// Things to try on the cluster that `npm run demo -- --keep` leaves running. The endpoint is the Service, which stays the same when the
// gateways are replaced. Pure; main.ts prints it.
import { servicePath } from "../harness/product.ts";
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
}

const proxyPort = 8001;

export function nextLines(left: Left): string[] {
  const { namespace, model, local, url } = left;
  return [
    `\n${bold("Left running.")} Try:`,
    ...(local === undefined ? [] : [`  eval "$(npm run -s cluster -- env --name ${local})"    # KUBECONFIG; kubectl and helm on PATH`]),
    ...(url === undefined ? [] : endpointLines(left, url)),
    `  npm run -s enodia -- status -n ${namespace}`,
    `  kubectl -n ${namespace} get moed,eplace,pods`,
    `  kubectl -n ${namespace} scale moed/${model} --replicas=2`,
    ...(local === undefined ? [] : [`  npm run cluster -- down --name ${local}`]),
  ];
}

function endpointLines({ namespace, model, local, kubectlFlags }: Left, url: string): string[] {
  const proxied = `http://127.0.0.1:${proxyPort}${servicePath({ name: model, namespace })}`;
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "Why is the sky blue?" }], max_tokens: 64 });
  return [
    ...(local === undefined ? [`  ${["kubectl", ...kubectlFlags].join(" ")} proxy --port=${proxyPort} &`] : []),
    `  export ENDPOINT=${local === undefined ? proxied : url}    # the Service: it stays when gateways are replaced`,
    `  curl -sS "$ENDPOINT/v1/chat/completions" -H 'content-type: application/json' -d '${body}'`,
    '  npm run -s enodia -- chat --url "$ENDPOINT" "Why is the sky blue?"',
  ];
}
