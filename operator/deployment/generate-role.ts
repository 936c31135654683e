// Generates the chart's roles from operator/rbac.ts: `node operator/deployment/generate-role.ts`. `--check` fails on drift.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { apiGroup } from "../../crds/common.ts";
import type { Scope } from "../kube/resources.ts";
import { type Rule, rulesOf } from "../rbac.ts";

export const roleFile = join(import.meta.dirname, "../../charts/enodia/templates/rbac.yaml");

const list = (items: readonly string[]): string => `[${items.map((item) => (item === "" ? '""' : item)).join(", ")}]`;

/** What is granted cluster-wide where namespaces grant the rest: to see objects, and to say in their status what is missing. */
const tells = ({ apiGroups, resources, verbs }: Rule): boolean =>
  apiGroups.includes(apiGroup) && (verbs.includes("watch") || resources.every((resource) => resource.endsWith("/status")));

function rules(scope: Scope, of: (rule: Rule) => boolean = () => true): string {
  return rulesOf(scope)
    .filter(of)
    .map(
      ({ why, apiGroups, resources, resourceNames, verbs, option }) =>
        `${option ? `  {{- if .Values.${option} }}\n` : ""}` +
        `  # ${why}\n  - apiGroups: ${list(apiGroups)}\n    resources: ${list(resources)}\n` +
        `${resourceNames ? `    resourceNames: ${list(resourceNames)}\n` : ""}    verbs: ${list(verbs)}\n` +
        `${option ? "  {{- end }}\n" : ""}`,
    )
    .join("");
}

/** A role up to its rules, or its binding. `namespace` is a template expression; undefined = cluster-wide. */
function head(kind: "Role" | "RoleBinding", name: string, namespace: string | undefined): string {
  return `apiVersion: rbac.authorization.k8s.io/v1
kind: ${namespace ? "" : "Cluster"}${kind}
metadata:
  name: ${name}
${namespace ? `  namespace: {{ ${namespace} }}\n` : ""}  labels:
    {{- include "enodia.labels" $ | nindent 4 }}
`;
}

function binding(name: string, namespace: string | undefined): string {
  return `---
${head("RoleBinding", name, namespace)}roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ${namespace ? "Role" : "ClusterRole"}
  name: ${name}
subjects:
  - kind: ServiceAccount
    name: {{ include "enodia.serviceAccountName" $ }}
    namespace: {{ $.Release.Namespace }}
`;
}

const fullname = '{{ include "enodia.fullname" $ }}';

export function roleTemplate(): string {
  return `# Generated from operator/rbac.ts; do not edit.
{{- define "enodia.watchedRules" }}
${rules("watched")}{{- end }}
{{- if .Values.rbac.create }}
${head("Role", fullname, undefined)}rules:
${rules("cluster")}{{- if eq .Values.rbac.scope "Namespaces" }}
${rules("watched", tells)}{{- else if not .Values.watchNamespaces }}
  {{- include "enodia.watchedRules" . }}
{{- end }}
${binding(fullname, undefined)}---
${head("Role", `${fullname}-own`, ".Release.Namespace")}rules:
${rules("release")}${binding(`${fullname}-own`, ".Release.Namespace")}{{- if eq .Values.rbac.scope "Namespaces" }}
{{- if not .Values.watchNamespaces }}{{ fail "rbac.scope Namespaces: name them in watchNamespaces" }}{{ end }}
---
${head("Role", `${fullname}-namespace`, undefined)}rules:
  {{- include "enodia.watchedRules" . }}
{{- else }}
{{- range .Values.watchNamespaces | uniq }}
---
${head("Role", fullname, ".")}rules:
  {{- include "enodia.watchedRules" $ }}
${binding(fullname, ".")}{{- end }}
{{- end }}
{{- end }}
`;
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
      process.stderr.write("charts/enodia/templates/rbac.yaml is out of date: run `node operator/deployment/generate-role.ts`\n");
      process.exitCode = 1;
    } else writeFileSync(roleFile, roleTemplate());
  }
}
