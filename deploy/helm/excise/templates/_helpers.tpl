{{- define "excise.name" -}}
{{- if contains "excise" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-excise" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "excise.labels" -}}
app.kubernetes.io/name: excise
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What pods are found by: (list $ "api") */}}
{{- define "excise.selector" -}}
app.kubernetes.io/name: excise
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* (list $ "excise-api") */}}
{{- define "excise.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "excise.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "excise.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What every pod of ours has in common: (list $ "api") */}}
{{- define "excise.podCommons" -}}
{{- $root := index . 0 -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "excise.podSecurity" $root | nindent 2 }}
{{- if $root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "excise.selector" (list $root (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where a process finds database, broker and artifacts; secrets by reference alone. */}}
{{- define "excise.environment" -}}
- name: EXCISE_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "database.secret: name of the secret that holds PostgreSQL's URL" .Values.database.secret }}
      key: {{ .Values.database.urlKey }}
- name: EXCISE_BROKER_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "broker.secret: name of the secret that holds Valkey's URL" .Values.broker.secret }}
      key: {{ .Values.broker.urlKey }}
- name: EXCISE_ARTIFACTS
  value: {{ .Values.artifacts.url | default "/var/lib/excise/artifacts" | quote }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* The S3 keys and the like, all of a secret's entries. */}}
{{- define "excise.artifactKeys" -}}
{{- with .Values.artifacts.secret }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end }}

{{- define "excise.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: models, mountPath: /var/lib/excise/models}
{{- if not .Values.artifacts.url }}
- {name: artifacts, mountPath: /var/lib/excise/artifacts}
{{- end }}
{{- if .Values.certificates.secret }}
- {name: certificates, mountPath: /etc/excise/certificates, readOnly: true}
{{- end }}
{{- end }}

{{- define "excise.volumes" -}}
- name: models
  persistentVolumeClaim:
    claimName: {{ required "models.claim: name of the claim with the checkpoints, readable from every node" .Values.models.claim }}
{{- if not .Values.artifacts.url }}
- name: artifacts
  persistentVolumeClaim:
    claimName: {{ required "artifacts.url (s3://bucket/prefix) or artifacts.claim" .Values.artifacts.claim }}
{{- end }}
{{- include "excise.certificates" . }}
{{- end }}

{{- define "excise.certificates" -}}
{{- with .Values.certificates.secret }}
- name: certificates
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* The environment variable that holds a pool's key: (pool) */}}
{{- define "excise.poolKey" -}}
SERVING_KEY_{{ .name | upper | replace "-" "_" }}
{{- end }}

{{/* EXCISE_SERVING_POOLS: the vLLM servers of this release. */}}
{{- define "excise.pools" -}}
{{- $pools := list -}}
{{- range .Values.serving.pools -}}
{{- $url := printf "http://%s-vllm-%s:8000" (include "excise.name" $) .name -}}
{{- $pools = append $pools (dict "name" .name "url" $url "base_model" .baseModel "kind" .kind "served_base" .servedName "max_slots" (int .maxSlots) "max_rank" (int .maxRank) "api_key_env" (include "excise.poolKey" .)) -}}
{{- end -}}
{{- toJson $pools -}}
{{- end }}
