{{- define "enodia.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "enodia.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "enodia.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "enodia.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object: those of commonLabels, and the chart's own, which win. */}}
{{- define "enodia.labels" -}}
{{- $own := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- $_ := set $own "app.kubernetes.io/name" (include "enodia.name" .) -}}
{{- $_ := set $own "app.kubernetes.io/instance" .Release.Name -}}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "enodia" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- toYaml (merge $own (omit .Values.commonLabels "app.kubernetes.io/component")) -}}
{{- end -}}

{{/* Labels of objects of one component. Takes (dict "root" $ "component" "operator"). */}}
{{- define "enodia.componentLabels" -}}
{{ include "enodia.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of a component's pods: nothing that changes with the chart alone, so that its version rolls no pods. */}}
{{- define "enodia.podLabels" -}}
{{ include "enodia.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: enodia
{{- end -}}

{{/* Immutable: name, instance, component only. Takes (dict "root" $ "component" "operator"). */}}
{{- define "enodia.selectorLabels" -}}
app.kubernetes.io/name: {{ include "enodia.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "enodia.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "enodia.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" $ "image" .Values.image "tag" "default tag"). */}}
{{- define "enodia.image" -}}
{{- $registry := .root.Values.global.imageRegistry -}}
{{- $repository := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Secret with the operator's credentials for a NATS of your own; empty where it wants none. */}}
{{- define "enodia.natsSecret" -}}
{{- with .Values.nats -}}
{{- $own := ne (include "enodia.ownNats" $) "" -}}
{{- if and .tls.secretName (or $own .url) (not (ternary .auth.enabled .auth.existingSecret $own)) -}}
{{- fail "nats.tls.secretName needs credentials beside it: nats.auth.enabled, or nats.auth.existingSecret for your own NATS" -}}
{{- else if .url -}}
{{- .auth.existingSecret -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Not empty where the chart has a NATS of its own. */}}
{{- define "enodia.ownNats" -}}
{{- if and .Values.nats.enabled (not .Values.nats.url) }}true{{ end -}}
{{- end -}}

{{/* Begin of the names of the Secrets that the operator makes for the chart's NATS; empty without. */}}
{{- define "enodia.natsSecrets" -}}
{{- if and (include "enodia.ownNats" .) .Values.nats.auth.enabled -}}
{{- printf "%s-nats" (include "enodia.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* What the operator mounts for NATS: credentials, a CA, or both. */}}
{{- define "enodia.natsSources" -}}
{{- with include "enodia.natsSecret" . }}
- secret: {name: {{ . }}, optional: true}
{{- end }}
{{- if include "enodia.natsUrl" . }}
{{- with .Values.nats.tls.secretName }}
- secret: {name: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}
{{- end -}}

{{- define "enodia.natsUrl" -}}
{{- if include "enodia.ownNats" . -}}
{{- printf "%s://%s-nats.%s.svc:4222" (ternary "tls" "nats" (ne .Values.nats.tls.secretName "")) (include "enodia.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- .Values.nats.url -}}
{{- end -}}
{{- end -}}

{{/* nodeSelector, tolerations, affinity and priorityClassName of a pod spec. Takes .Values or .Values.nats. */}}
{{- define "enodia.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
