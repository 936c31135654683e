// Writes the chart's ClusterRole from operator/rbac.ts: `node operator/deployment/generate-role.ts`. `--check` fails on drift.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { operatorRules } from "../rbac.ts";

export const roleFile = join(import.meta.dirname, "../../charts/enodia/templates/clusterrole.yaml");

const head = `# Generated from operator/rbac.ts; do not edit.
{{- if .Values.rbac.create }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "enodia.fullname" . }}
  labels:
    {{- include "enodia.labels" . | nindent 4 }}
rules:
`;
const tail = `---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "enodia.fullname" . }}
  labels:
    {{- include "enodia.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "enodia.fullname" . }}
subjects:
  - kind: ServiceAccount
    name: {{ include "enodia.serviceAccountName" . }}
    namespace: {{ .Release.Namespace }}
{{- end }}
`;

export function roleTemplate(): string {
  const list = (items: readonly string[]) => `[${items.map((item) => (item === "" ? '""' : item)).join(", ")}]`;
  const rules = operatorRules.map(
    (rule) =>
      `  # ${rule.why}\n  - apiGroups: ${list(rule.apiGroups)}\n    resources: ${list(rule.resources)}\n    verbs: ${list(rule.verbs)}\n`,
  );
  return head + rules.join("") + tail;
}

if (import.meta.main) {
  const current = (() => {
    try {
      return readFileSync(roleFile, "utf8");
    } catch {
      return "";
    }
  })();
  if (current !== roleTemplate()) {
    if (process.argv.includes("--check")) {
      process.stderr.write("charts/enodia/templates/clusterrole.yaml is out of date: run `node operator/deployment/generate-role.ts`\n");
      process.exitCode = 1;
    } else writeFileSync(roleFile, roleTemplate());
  }
}
