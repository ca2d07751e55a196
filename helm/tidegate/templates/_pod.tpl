{{/* What the gateway's pods mount: each with its Secret or ConfigMap. */}}

{{- define "tidegate.mounts" -}}
- name: config
  from: configMap
  object: {{ include "tidegate.fullname" . }}
{{- if include "tidegate.tls" . }}
- name: tls
  from: secret
  object: {{ include "tidegate.tlsSecret" . }}
{{- end }}
{{- with .Values.tls.clientCA.existingSecret }}
- name: client-ca
  from: secret
  object: {{ . }}
{{- end }}
{{- if not .Values.peer.plaintext }}
- name: peer
  from: secret
  object: {{ include "tidegate.peerSecret" . }}
{{- end }}
{{- range $name := list "kafka" "redis" }}
{{- with include "tidegate.credentialsSecret" (list $ $name) }}
- name: {{ $name }}
  from: secret
  object: {{ . }}
{{- end }}
{{- with (index $.Values $name).tls.existingSecret }}
- name: {{ $name }}-tls
  from: secret
  object: {{ . }}
{{- end }}
{{- end }}
{{- if include "tidegate.jwksMounted" . }}
- name: jwks
  from: {{ ternary "configMap" "secret" (ne .Values.jwks.existingConfigMap "") }}
  object: {{ .Values.jwks.existingConfigMap | default .Values.jwks.existingSecret | default (printf "%s-tryout" (include "tidegate.fullname" .)) }}
{{- end }}
{{- end -}}

{{- define "tidegate.volumes" -}}
{{- range include "tidegate.mounts" . | fromYamlArray }}
- name: {{ .name }}
  {{- if eq .from "configMap" }}
  configMap:
    name: {{ .object }}
  {{- else }}
  secret:
    secretName: {{ .object }}
    defaultMode: 288
  {{- end }}
{{- end }}
{{- end -}}

{{/* (list $ names…): only those; without names all. */}}
{{- define "tidegate.volumeMounts" -}}
{{- $names := rest . -}}
{{- range include "tidegate.mounts" (first .) | fromYamlArray }}
{{- if or (not $names) (has .name $names) }}
- name: {{ .name }}
  mountPath: /etc/tidegate/{{ .name }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{/* User and password of a neighbour, as files: (list $ "kafka"). */}}
{{- define "tidegate.credentialsEnv" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $values := index $root.Values $name -}}
{{- if include "tidegate.credentialsSecret" . }}
{{- if and $values.existingSecret $values.usernameKey }}
- name: TIDEGATE_{{ upper $name }}__USERNAME_FILE
  value: /etc/tidegate/{{ $name }}/{{ $values.usernameKey }}
{{- end }}
- name: TIDEGATE_{{ upper $name }}__PASSWORD_FILE
  value: /etc/tidegate/{{ $name }}/{{ $values.passwordKey }}
{{- end }}
{{- end -}}

{{/* A node has no internal port before it has reached what it needs: it gives up by itself before a probe does. */}}
{{- define "tidegate.startupProbe" -}}
{{- $patience := add 30 (int (dig "node" "start_timeout_s" 30 .Values.config)) -}}
{{- $failures := div (add $patience (int .Values.startupProbe.periodSeconds) -1) (int .Values.startupProbe.periodSeconds) -}}
{{- include "tidegate.probe" (list "/livez" (merge (dict "failureThreshold" (.Values.startupProbe.failureThreshold | default $failures | int)) (omit .Values.startupProbe "failureThreshold"))) -}}
{{- end -}}

{{/* A probe of the internal port: (list path values). */}}
{{- define "tidegate.probe" -}}
httpGet:
  path: {{ index . 0 }}
  port: internal
{{- toYaml (omit (index . 1) "enabled") | nindent 0 }}
{{- end -}}

{{/* What rolls the pods when it changes. The nodes' own certificates and key sets do not: they are read again. */}}
{{- define "tidegate.checksums" -}}
checksum/config: {{ include "tidegate.toml" . | sha256sum }}
{{- $passwords := printf "%s/%s" .Values.kafka.password .Values.redis.password }}
{{- $there := "" }}
{{- range list .Values.kafka.existingSecret .Values.kafka.tls.existingSecret .Values.redis.tls.existingSecret }}
{{- $there = print $there (include "tidegate.secretSum" (list $ .)) }}
{{- end }}
checksum/secrets: {{ print $passwords $there | sha256sum }}
{{- end -}}
