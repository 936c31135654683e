// Keys, certificates and kubeconfigs of one cluster, made with the openssl program below <cluster>/pki. They live and die with the cluster.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "./exec.ts";
import { type ClusterNames, clusterDomain, type NodeNames } from "./names.ts";

const days = "3650";

/** openssl's own configuration file differs between machines; this one holds nothing but what a request must name. */
const opensslConfig = "[req]\nprompt = no\ndistinguished_name = dn\n[dn]\n";

interface Identity {
  readonly file: string;
  readonly user: string;
  readonly groups?: readonly string[];
  readonly altNames?: readonly string[];
  readonly authority?: string;
}

export const pkiFile = (cluster: ClusterNames, file: string): string => join(cluster.folder, "pki", file);

async function certify(cluster: ClusterNames, args: readonly string[], subject: string, file: string): Promise<void> {
  const config = pkiFile(cluster, "openssl.cnf");
  const key = pkiFile(cluster, `${file}.key`);
  const fixed = ["req", "-x509", "-config", config, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", days];
  await run("openssl", [...fixed, "-subj", subject, "-keyout", key, "-out", pkiFile(cluster, `${file}.crt`), ...args]);
}

async function makeAuthority(cluster: ClusterNames, file: string): Promise<void> {
  const extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"];
  await certify(
    cluster,
    extensions.flatMap((extension) => ["-addext", extension]),
    `/CN=enodia-${cluster.name}-${file}`,
    file,
  );
}

async function issue(cluster: ClusterNames, identity: Identity): Promise<void> {
  const authority = identity.authority ?? "ca";
  const extensions = [
    "basicConstraints=critical,CA:FALSE",
    "keyUsage=critical,digitalSignature,keyEncipherment",
    "extendedKeyUsage=serverAuth,clientAuth",
    ...(identity.altNames === undefined ? [] : [`subjectAltName=${identity.altNames.join(",")}`]),
  ];
  const signer = ["-CA", pkiFile(cluster, `${authority}.crt`), "-CAkey", pkiFile(cluster, `${authority}.key`)];
  const subject = `${(identity.groups ?? []).map((group) => `/O=${group}`).join("")}/CN=${identity.user}`;
  await certify(cluster, [...signer, ...extensions.flatMap((extension) => ["-addext", extension])], subject, identity.file);
}

const base64 = (file: string): string => readFileSync(file).toString("base64");

function kubeconfigText(server: string, data: { ca: string; certificate: string; key: string; context: string }): string {
  return `apiVersion: v1
kind: Config
current-context: ${data.context}
clusters:
  - name: ${data.context}
    cluster: { server: "${server}", certificate-authority-data: "${data.ca}" }
users:
  - name: ${data.context}
    user: { client-certificate-data: "${data.certificate}", client-key-data: "${data.key}" }
contexts:
  - name: ${data.context}
    context: { cluster: ${data.context}, user: ${data.context} }
`;
}

function writeKubeconfig(cluster: ClusterNames, identity: string, target: string): void {
  const text = kubeconfigText(cluster.server, {
    ca: base64(pkiFile(cluster, "ca.crt")),
    certificate: base64(pkiFile(cluster, `${identity}.crt`)),
    key: base64(pkiFile(cluster, `${identity}.key`)),
    context: `enodia-${cluster.name}`,
  });
  writeFileSync(target, text, { mode: 0o600 });
}

/** The file another component of the cluster is given to reach the API server. */
export const componentKubeconfig = (cluster: ClusterNames, identity: string): string => pkiFile(cluster, `${identity}.kubeconfig`);

export async function makeClusterCertificates(cluster: ClusterNames): Promise<void> {
  mkdirSync(join(cluster.folder, "pki"), { recursive: true, mode: 0o700 });
  writeFileSync(pkiFile(cluster, "openssl.cnf"), opensslConfig);
  await Promise.all([makeAuthority(cluster, "ca"), makeAuthority(cluster, "front-proxy-ca")]);
  const apiNames = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", `kubernetes.default.svc.${clusterDomain}`, "localhost"];
  const apiAddresses = ["127.0.0.1", cluster.kubernetesServiceAddress, cluster.hostAddress];
  const identities: Identity[] = [
    {
      file: "apiserver",
      user: "kube-apiserver",
      altNames: [...apiNames.map((name) => `DNS:${name}`), ...apiAddresses.map((address) => `IP:${address}`)],
    },
    { file: "apiserver-kubelet-client", user: "kube-apiserver-kubelet-client", groups: ["system:masters"] },
    { file: "front-proxy-client", user: "front-proxy-client", authority: "front-proxy-ca" },
    { file: "admin", user: "enodia-admin", groups: ["system:masters"] },
    { file: "controller-manager", user: "system:kube-controller-manager" },
    { file: "scheduler", user: "system:kube-scheduler" },
    { file: "kube-proxy", user: "system:kube-proxy" },
    { file: "coredns", user: "enodia:coredns" },
  ];
  await Promise.all(identities.map((identity) => issue(cluster, identity)));
  for (const identity of ["controller-manager", "scheduler", "kube-proxy", "coredns"]) {
    writeKubeconfig(cluster, identity, componentKubeconfig(cluster, identity));
  }
  writeKubeconfig(cluster, "admin", cluster.kubeconfig);
  const key = pkiFile(cluster, "service-account.key");
  await run("openssl", ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key]);
  await run("openssl", ["pkey", "-in", key, "-pubout", "-out", pkiFile(cluster, "service-account.pub")]);
}

/** A node's client certificate (its identity to the API server) and serving certificate (for logs, exec, metrics) are one. */
export async function makeNodeCertificate(cluster: ClusterNames, node: NodeNames): Promise<void> {
  if (existsSync(componentKubeconfig(cluster, node.name))) return;
  const altNames = [`DNS:${node.name}`, `IP:${node.address}`];
  await issue(cluster, { file: node.name, user: `system:node:${node.name}`, groups: ["system:nodes"], altNames });
  writeKubeconfig(cluster, node.name, componentKubeconfig(cluster, node.name));
}
