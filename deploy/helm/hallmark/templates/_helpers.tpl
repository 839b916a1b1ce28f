{{/*
The beginning of all names. At most 43 characters: a StatefulSet's name may have 52, since its pods carry it with a
hash in a label of 63, and "-receiver" comes after it. A release's name may be longer, have dots or begin with a digit,
which the name of a Service must not. What had to be changed gets a hash, so that two releases never share a name.
*/}}
{{- define "hallmark.fullname" -}}
{{- $wanted := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $wanted = .Values.fullnameOverride -}}
{{- else if not (contains "hallmark" .Release.Name) -}}
{{- $wanted = printf "%s-hallmark" .Release.Name -}}
{{- end -}}
{{- $name := regexReplaceAll "[^a-z0-9-]" $wanted "-" -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- $name = printf "r%s" $name -}}
{{- end -}}
{{- if or (ne $name $wanted) (gt (len $name) 43) -}}
{{- $name = printf "%s-%s" (trunc 34 $name | trimSuffix "-") (sha256sum $wanted | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "hallmark.nodeName" -}}
{{ include "hallmark.fullname" . }}-node
{{- end -}}

{{- define "hallmark.receiverName" -}}
{{ include "hallmark.fullname" . }}-receiver
{{- end -}}

{{/* Labels that never change: selectors and volume claims, which cannot be altered later, have only these. */}}
{{- define "hallmark.selectorLabels" -}}
app.kubernetes.io/name: hallmark
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "hallmark.labels" -}}
{{ include "hallmark.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image by its digest, or else by its tag. What .over leaves empty is .image's. */}}
{{- define "hallmark.image" -}}
{{- $over := .over | default dict -}}
{{- $repository := $over.repository | default .root.Values.image.repository -}}
{{- $digest := $over.digest -}}
{{- if not (or $over.repository $over.tag $over.digest) -}}
{{- $digest = .root.Values.image.digest -}}
{{- end -}}
{{- if $digest -}}
{{ $repository }}@{{ $digest }}
{{- else -}}
{{ $repository }}:{{ $over.tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "hallmark.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# A cache of weights has many files: they are not walked through at each start.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "hallmark.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "hallmark.podAnnotations" -}}
{{- $annotations := dict -}}
{{- if .root.Values.prometheus.annotations -}}
{{- $annotations = dict "prometheus.io/scrape" "true" "prometheus.io/port" .port "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- toYaml (mergeOverwrite $annotations (deepCopy .annotations)) -}}
{{- end -}}

{{/* A source of the volume of secrets: one key of a Secret as one file. */}}
{{- define "hallmark.secretSource" -}}
- secret:
    name: {{ .name | quote }}
    items:
      - key: {{ .key | quote }}
        path: {{ .path }}
{{- end -}}

{{- define "hallmark.volumeClaim" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .size | quote }}
{{- end -}}

{{/* Refuse what would be lost, shown or contradicted by what the chart sets itself. */}}
{{- define "hallmark.checkNode" -}}
{{- if not .Values.secrets.apiKey.existingSecret -}}
{{- fail "a node needs the token of its control routes: make a Secret with it, and name it in secrets.apiKey.existingSecret" -}}
{{- end -}}
{{- range $flag := list "config" "model" "port" "uds" -}}
{{- if hasKey $.Values.node.config $flag -}}
{{- fail (printf "node.config.%s: the chart sets this flag; the model is node.model, and the container's port stays 8000" $flag) -}}
{{- end -}}
{{- end -}}
{{- if hasKey .Values.node.config "api-key" -}}
{{- fail "node.config.api-key: a ConfigMap is no place for a secret; set VLLM_API_KEY in node.env from a Secret, by valueFrom" -}}
{{- end -}}
{{- if hasKey .Values.node.config "hf-token" -}}
{{- fail "node.config.hf-token: a ConfigMap is no place for a secret; name a Secret in node.huggingFaceTokenSecret instead" -}}
{{- end -}}
{{/* "vllm serve" passes over what is false in its file. */}}
{{- range $flag, $value := .Values.node.config -}}
{{- if and (kindIs "bool" $value) (not $value) -}}
{{- fail (printf "node.config.%s: vLLM passes over a flag that is false; write no-%s: true, or leave it out" $flag $flag) -}}
{{- end -}}
{{- end -}}
{{- $settings := dig "additional-config" "hallmark" dict .Values.node.config | default dict -}}
{{- range $setting, $value := dict "api_key" "apiKey" "api_key_file" "apiKey" "webhook_secrets" "webhookSecrets" "webhook_secrets_file" "webhookSecrets" -}}
{{- if hasKey $settings $setting -}}
{{- fail (printf "node.config.additional-config.hallmark.%s: name a Secret in secrets.%s.existingSecret instead; the chart mounts it and sets its path" $setting $value) -}}
{{- end -}}
{{- end -}}
{{/* vLLM takes flags that are cut short, too. */}}
{{- range $argument := .Values.node.extraArgs -}}
{{- if regexMatch "^--add" $argument -}}
{{- fail "node.extraArgs: --additional-config there would replace that of node.config, the token's path included; put it into node.config" -}}
{{- end -}}
{{- if regexMatch "^--(config|model|port|uds)(=|$)" $argument -}}
{{- fail (printf "node.extraArgs: the chart sets %s; the model is node.model, and the container's port stays 8000" (splitList "=" $argument | first)) -}}
{{- end -}}
{{- if regexMatch "^--(api[-_]k|hf[-_]t)" $argument -}}
{{- fail (printf "node.extraArgs: whoever lists pods would see the secret of %s; see node.env and node.huggingFaceTokenSecret" (splitList "=" $argument | first)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.node.env -}}
{{- if has .name (list "HALLMARK_API_KEY" "HALLMARK_WEBHOOK_SECRETS") -}}
{{- fail (printf "node.env: %s is a secret; name a Secret in secrets.apiKey.existingSecret or secrets.webhookSecrets.existingSecret instead" .name) -}}
{{- end -}}
{{- if and (has .name (list "VLLM_API_KEY" "HF_TOKEN" "HUGGING_FACE_HUB_TOKEN")) (hasKey . "value") -}}
{{- fail (printf "node.env: %s is a secret; take it from a Secret, by valueFrom" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The node's configuration, vLLM's flags. The paths of secrets must stand here: of a flag that is given both in the file
and on the command line, vLLM takes the command line's alone, even if that gives only a part of it by a dotted name.
*/}}
{{- define "hallmark.nodeConfig" -}}
{{- $config := deepCopy .Values.node.config -}}
{{- $additional := get $config "additional-config" | default dict -}}
{{- $settings := get $additional "hallmark" | default dict -}}
{{- $_ := set $settings "api_key_file" "/run/secrets/hallmark/api_key" -}}
{{- if .Values.secrets.webhookSecrets.existingSecret -}}
{{- $_ := set $settings "webhook_secrets_file" "/run/secrets/hallmark/webhook_secrets" -}}
{{- end -}}
{{- $_ := set $additional "hallmark" $settings -}}
{{- $_ := set $config "additional-config" $additional -}}
{{- $_ := set $config "port" 8000 -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Environment of the node: the chart's variables, but for those that node.env sets; two of one name are refused. */}}
{{- define "hallmark.nodeEnvironment" -}}
{{- $given := list -}}
{{- range .Values.node.env -}}
{{- $given = append $given .name -}}
{{- end -}}
{{- $variables := dict
  "HOME" "/var/cache/hallmark"
  "XDG_CACHE_HOME" "/var/cache/hallmark"
  "HF_HOME" "/var/cache/hallmark/huggingface"
  "TRITON_CACHE_DIR" "/var/cache/hallmark/triton"
  "XDG_STATE_HOME" "/var/lib"
-}}
{{- if .Values.node.huggingFaceTokenSecret.name -}}
{{- $_ := set $variables "HF_TOKEN_PATH" "/run/secrets/hallmark/hugging_face_token" -}}
{{- end -}}
{{- $environment := list -}}
{{- range $name, $value := $variables -}}
{{- if not (has $name $given) -}}
{{- $environment = append $environment (dict "name" $name "value" $value) -}}
{{- end -}}
{{- end -}}
{{- toYaml (concat $environment .Values.node.env) -}}
{{- end -}}
