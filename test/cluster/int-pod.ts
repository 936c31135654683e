// The program that runs in the integration test's pods, as text for an image: an HTTP server that looks at the cluster from inside. It
// is no product code.

export const podProgram = `
import { lookup } from 'node:dns/promises';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { request } from 'node:https';

const held = [];
const account = '/var/run/secrets/kubernetes.io/serviceaccount';
const api = (path) => new Promise((resolve, reject) => {
  const headers = { authorization: 'Bearer ' + readFileSync(account + '/token', 'utf8') };
  request('https://kubernetes.default.svc' + path, { ca: readFileSync(account + '/ca.crt'), headers }, (answer) => {
    let body = '';
    answer.on('data', (chunk) => { body += chunk; });
    answer.on('end', () => resolve({ status: answer.statusCode, body }));
  }).on('error', reject).end();
});
const paths = {
  '/': () => ({ pod: process.env.POD, node: process.env.NODE, uid: process.getuid() }),
  '/fetch': async (query) => (await fetch(query.get('url'), { signal: AbortSignal.timeout(4000) })).json(),
  '/resolve': async (query) => (await lookup(query.get('name'), { all: true })).map((one) => one.address).sort(),
  '/api': (query) => api(query.get('path')),
  '/hold': (query) => { held.push(Buffer.alloc(Number(query.get('mib')) * 1048576, 1)); return { held: held.length }; },
  '/read': (query) => ({ text: readFileSync(query.get('file'), 'utf8') }),
  '/write': (query) => { writeFileSync(query.get('file'), query.get('text')); return {}; },
};
createServer(async (request, response) => {
  const url = new URL(request.url, 'http://pod');
  try {
    response.end(JSON.stringify(await paths[url.pathname](url.searchParams)));
  } catch (cause) {
    response.writeHead(500).end(JSON.stringify({ error: String(cause), cause: String(cause.cause) }));
  }
}).listen(8080, () => console.log('listening on ' + process.env.NODE));
process.on('SIGTERM', () => process.exit(0));
`;

const restricted = {
  allowPrivilegeEscalation: false,
  runAsNonRoot: true,
  capabilities: { drop: ["ALL"] },
  seccompProfile: { type: "RuntimeDefault" },
};

/** A pod bound to one node that outlives the node's absence. */
export function testPod(name: string, node: string, image: string, claim?: string): object {
  const field = (fieldPath: string) => ({ valueFrom: { fieldRef: { fieldPath } } });
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { app: "probe", pod: name } },
    spec: {
      hostname: name,
      subdomain: "probes",
      nodeSelector: { "kubernetes.io/hostname": node },
      terminationGracePeriodSeconds: 1,
      tolerations: [{ operator: "Exists", effect: "NoExecute" }],
      containers: [
        {
          name: "probe",
          image,
          imagePullPolicy: "Never",
          args: ["/app/probe.mjs"],
          env: [
            { name: "POD", value: name },
            { name: "NODE", ...field("spec.nodeName") },
          ],
          ports: [{ containerPort: 8080 }],
          resources: { limits: { memory: "256Mi", cpu: "1" }, requests: { memory: "64Mi", cpu: "50m" } },
          readinessProbe: { httpGet: { path: "/", port: 8080 }, periodSeconds: 1 },
          securityContext: restricted,
          ...(claim === undefined ? {} : { volumeMounts: [{ name: "data", mountPath: "/data" }] }),
        },
      ],
      ...(claim === undefined ? {} : { volumes: [{ name: "data", persistentVolumeClaim: { claimName: claim } }] }),
    },
  };
}

export function testService(name: string, pod: string): object {
  const spec = { type: "NodePort", selector: { pod }, ports: [{ port: 80, targetPort: 8080 }] };
  return { apiVersion: "v1", kind: "Service", metadata: { name }, spec };
}

export const headlessService = {
  apiVersion: "v1",
  kind: "Service",
  metadata: { name: "probes" },
  spec: { clusterIP: "None", publishNotReadyAddresses: true, selector: { app: "probe" }, ports: [{ port: 8080 }] },
};

export function hostVolume(name: string, path: string): object[] {
  const size = { storage: "1Gi" };
  return [
    {
      apiVersion: "v1",
      kind: "PersistentVolume",
      metadata: { name },
      spec: {
        capacity: size,
        accessModes: ["ReadWriteMany"],
        storageClassName: "",
        hostPath: { path },
        claimRef: { namespace: "probe", name },
      },
    },
    {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      metadata: { name },
      spec: { accessModes: ["ReadWriteMany"], storageClassName: "", volumeName: name, resources: { requests: size } },
    },
  ];
}
