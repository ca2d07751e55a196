{{/* The configuration of the nodes: what the user gave, and over it what the chart knows better. */}}

{{- define "tidegate.listen" -}}
{{- printf "%s:%d" (ternary "[::]" "0.0.0.0" (index . 0).Values.ipv6) (index . 1) -}}
{{- end -}}

{{/* As YAML. */}}
{{- define "tidegate.config" -}}
{{- $values := .Values -}}
{{- $own := dict
  "public" (dict "listen" (include "tidegate.listen" (list . 8443)))
  "internal" (dict "listen" (include "tidegate.listen" (list . 9090)))
  "peer" (dict "listen" (include "tidegate.listen" (list . 7443)) "server_name" $values.peer.serverName)
  "kafka" dict "redis" dict "auth" dict -}}
{{- if include "tidegate.tls" . -}}
{{- $_ := set $own.public "tls_cert" "/etc/tidegate/tls/tls.crt" -}}
{{- $_ := set $own.public "tls_key" "/etc/tidegate/tls/tls.key" -}}
{{- else -}}
{{- $_ := set $own.public "plaintext" true -}}
{{- end -}}
{{- with $values.tls.clientCA -}}
{{- if .existingSecret -}}
{{- $_ := set $own.public "client_ca" (printf "/etc/tidegate/client-ca/%s" .key) -}}
{{- end -}}
{{- end -}}
{{- if $values.service.api.enabled -}}
{{- $_ := set $own "api" (dict "listen" (include "tidegate.listen" (list . 8444))) -}}
{{- end -}}
{{- if $values.peer.plaintext -}}
{{- $_ := set $own.peer "plaintext" true -}}
{{- else -}}
{{- range $key, $file := dict "tls_cert" "tls.crt" "tls_key" "tls.key" "tls_ca" "ca.crt" -}}
{{- $_ := set $own.peer $key (printf "/etc/tidegate/peer/%s" $file) -}}
{{- end -}}
{{- end -}}
{{- with $values.kafka.tls -}}
{{- if and .existingSecret .caKey -}}
{{- $_ := set $own.kafka "ca" (printf "/etc/tidegate/kafka-tls/%s" .caKey) -}}
{{- end -}}
{{- if and .existingSecret .clientCertificate -}}
{{- $_ := set $own.kafka "cert" "/etc/tidegate/kafka-tls/tls.crt" -}}
{{- $_ := set $own.kafka "key" "/etc/tidegate/kafka-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- with $values.redis.tls -}}
{{- if .existingSecret -}}
{{- $_ := set $own.redis "ca" (printf "/etc/tidegate/redis-tls/%s" .caKey) -}}
{{- end -}}
{{- end -}}
{{- if include "tidegate.jwksMounted" . -}}
{{- $_ := set $own.auth "jwks" (printf "/etc/tidegate/jwks/%s" $values.jwks.key) -}}
{{- end -}}
{{- toYaml (mergeOverwrite (include "tidegate.tryoutConfig" . | fromYaml) (deepCopy $values.config) $own) -}}
{{- end -}}

{{/* What trying out takes for granted where nothing is said. */}}
{{- define "tidegate.tryoutConfig" -}}
{{- if .Values.tryout.enabled -}}
{{- $name := include "tidegate.fullname" . -}}
kafka:
  brokers: {{ $name }}-kafka:9092
redis:
  urls: [redis://{{ $name }}-redis:6379]
{{- if include "tidegate.tryoutKeys" . }}
auth:
  algorithms: [HS256]
  max_lifetime_h: {{ mul 24 (int .Values.tryout.tokenDays) }}
{{- end }}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* "true" where the user said whose tokens are good. */}}
{{- define "tidegate.jwksGiven" -}}
{{- $auth := .Values.config.auth | default dict -}}
{{- if or $auth.jwks $auth.issuers .Values.jwks.existingSecret .Values.jwks.existingConfigMap -}}true{{- end -}}
{{- end -}}

{{/* "true" where helm makes the signing key. */}}
{{- define "tidegate.tryoutKeys" -}}
{{- if and .Values.tryout.enabled (not (include "tidegate.jwksGiven" .)) -}}true{{- end -}}
{{- end -}}

{{/* "true" where the key set is a mounted file. */}}
{{- define "tidegate.jwksMounted" -}}
{{- if or .Values.jwks.existingSecret .Values.jwks.existingConfigMap (include "tidegate.tryoutKeys" .) -}}true{{- end -}}
{{- end -}}

{{/* The configuration as TOML: a section for each key, lists and tables within one written inline. */}}
{{- define "tidegate.toml" -}}
{{- range $section, $keys := include "tidegate.config" . | fromYaml }}
{{- if $keys }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "tidegate.tomlValue" $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}
{{- end -}}

{{- define "tidegate.tomlValue" -}}
{{- if kindIs "map" . -}}
{
{{- $comma := "" -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- printf "%s %s = %s" $comma ($key | toRawJson) (include "tidegate.tomlValue" $value) -}}
{{- $comma = "," -}}
{{- end -}}
{{- end }} }
{{- else if kindIs "slice" . -}}
[
{{- range $index, $value := . -}}
{{- if $index }}, {{ end -}}
{{- include "tidegate.tomlValue" $value -}}
{{- end -}}
]
{{- else if kindIs "string" . -}}
{{- toRawJson . -}}
{{- else if kindIs "bool" . -}}
{{- . -}}
{{- else if eq (float64 .) (float64 (int64 .)) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}
