{{/* What cannot work or must not be: every mistake at once, each with its remedy. */}}

{{- define "tidegate.refusals" -}}
{{- $mistakes := concat
  (include "tidegate.refusals.tls" . | fromJsonArray)
  (include "tidegate.refusals.neighbours" . | fromJsonArray)
  (include "tidegate.refusals.config" . | fromJsonArray)
  (include "tidegate.refusals.rollout" . | fromJsonArray)
  (include "tidegate.refusals.routes" . | fromJsonArray) -}}
{{- if $mistakes -}}
{{- fail (printf "\nThe values have %d mistake%s:\n  - %s\n" (len $mistakes) (ternary "" "s" (eq (len $mistakes) 1)) (join "\n  - " $mistakes)) -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.refusals.tls" -}}
{{- $found := list -}}
{{- with .Values.tls -}}
{{- if not (or .existingSecret .certManager.enabled .plaintext $.Values.tryout.enabled) -}}
{{- $found = append $found "tls: no certificate. Set tls.existingSecret or tls.certManager.enabled, or tls.plaintext=true where something in front of the nodes terminates TLS" -}}
{{- end -}}
{{- if gt (len (compact (list .existingSecret (ternary "x" "" .certManager.enabled) (ternary "y" "" .plaintext)))) 1 -}}
{{- $found = append $found "tls: existingSecret, certManager.enabled and plaintext exclude each other: leave one" -}}
{{- end -}}
{{- if and .certManager.enabled (not .certManager.issuerRef.name) -}}
{{- $found = append $found "tls.certManager.issuerRef.name: missing" -}}
{{- end -}}
{{- if and .certManager.enabled (not .certManager.dnsNames) -}}
{{- $found = append $found "tls.certManager.dnsNames: missing: the names devices connect to" -}}
{{- end -}}
{{- if and .clientCA.existingSecret (not (include "tidegate.tls" $)) -}}
{{- $found = append $found "tls.clientCA: device certificates need TLS at the nodes: set tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- end -}}
{{- with .Values.peer -}}
{{- if gt (len (compact (list .existingSecret (ternary "x" "" .certManager.enabled) (ternary "y" "" .plaintext)))) 1 -}}
{{- $found = append $found "peer: existingSecret, certManager.enabled and plaintext exclude each other: leave one" -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "tidegate.refusals.neighbours" -}}
{{- $found := list -}}
{{- $config := include "tidegate.config" . | fromYaml -}}
{{- if not $config.kafka.brokers -}}
{{- $found = append $found "config.kafka.brokers: missing: host:port of at least one broker (or tryout.enabled=true to try it out)" -}}
{{- end -}}
{{- if not $config.redis.urls -}}
{{- $found = append $found "config.redis.urls: missing: [\"redis://host:6379\"] (or tryout.enabled=true to try it out)" -}}
{{- end -}}
{{- if not (or $config.auth.jwks $config.auth.issuers) -}}
{{- $found = append $found "config.auth.jwks: missing: the URL of a JWKS; or jwks.existingSecret or jwks.existingConfigMap (or tryout.enabled=true to try it out)" -}}
{{- end -}}
{{- if and .Values.jwks.existingSecret .Values.jwks.existingConfigMap -}}
{{- $found = append $found "jwks: existingSecret and existingConfigMap exclude each other: leave one" -}}
{{- end -}}
{{- $sasl := or (hasPrefix "sasl" ($config.kafka.security | default "")) (and $config.kafka.preset (not $config.kafka.security)) -}}
{{- if and $sasl (not (include "tidegate.credentialsSecret" (list . "kafka"))) -}}
{{- $found = append $found "kafka.existingSecret: missing: SASL needs a Secret with user and password (or client id and secret)" -}}
{{- end -}}
{{- if and .Values.topics.apply (eq ($config.kafka.sasl_mechanism | default "") "OAUTHBEARER") -}}
{{- $found = append $found "topics.apply: cannot be used with OAUTHBEARER: make the topics with what `tidegate topics --print` prints" -}}
{{- end -}}
{{- range list "kafka" "redis" -}}
{{- $values := index $.Values . -}}
{{- if and $values.existingSecret $values.password -}}
{{- $found = append $found (printf "%s: existingSecret and password exclude each other: leave one" .) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.kafka.tls.clientCertificate (not .Values.kafka.tls.existingSecret) -}}
{{- $found = append $found "kafka.tls.existingSecret: missing: it holds the client certificate" -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Keys the chart sets, and secrets, which must not be in a ConfigMap. */}}
{{- define "tidegate.refusals.config" -}}
{{- $found := list -}}
{{- $elsewhere := dict
  "node.name" "every pod has its own"
  "public.listen" "the Service counts on it"
  "public.plaintext" "use tls.plaintext"
  "public.tls_cert" "use tls.existingSecret"
  "public.tls_key" "use tls.existingSecret"
  "public.client_ca" "use tls.clientCA"
  "api.listen" "use service.api.enabled"
  "internal.listen" "the probes count on it"
  "peer.listen" "the Service counts on it"
  "peer.advertise" "every pod has its own"
  "peer.plaintext" "use peer.plaintext"
  "peer.server_name" "use peer.serverName"
  "peer.tls_cert" "use peer.existingSecret"
  "peer.tls_key" "use peer.existingSecret"
  "peer.tls_ca" "use peer.existingSecret"
  "kafka.password" "use kafka.existingSecret: a ConfigMap is no place for a secret"
  "kafka.ca" "use kafka.tls.existingSecret"
  "kafka.cert" "use kafka.tls.existingSecret"
  "kafka.key" "use kafka.tls.existingSecret"
  "redis.password" "use redis.existingSecret: a ConfigMap is no place for a secret"
  "redis.ca" "use redis.tls.existingSecret" -}}
{{- range $section, $keys := .Values.config -}}
{{- range $key, $_ := $keys -}}
{{- with get $elsewhere (printf "%s.%s" $section $key) -}}
{{- $found = append $found (printf "config.%s.%s: cannot be set here: %s" $section $key .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := dig "kafka" "properties" dict .Values.config -}}
{{- if or (regexMatch "(?i)password|passphrase|secret|credential|jaas|\\.pem$" $name) (eq $name "sasl.oauthbearer.config") -}}
{{- $found = append $found (printf "config.kafka.properties.%s: a ConfigMap is no place for a secret: give it by extraEnv, as TIDEGATE_KAFKA__PROPERTIES__%s with valueFrom.secretKeyRef" $name ($name | upper | replace "." "_")) -}}
{{- end -}}
{{- end -}}
{{- range dig "redis" "urls" list .Values.config -}}
{{- if contains "@" . -}}
{{- $found = append $found "config.redis.urls: holds a user or password, and a ConfigMap is no place for a secret: use redis.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- $sets := list (dig "auth" "jwks" "" .Values.config) -}}
{{- range dig "auth" "issuers" list .Values.config -}}
{{- $sets = append $sets (.jwks | default "") -}}
{{- end -}}
{{- range $sets -}}
{{- if regexMatch "\"(k|d)\"\\s*:" . -}}
{{- $found = append $found "config.auth.jwks: holds a secret key, and a ConfigMap is no place for it: use jwks.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "tidegate.refusals.rollout" -}}
{{- $found := list -}}
{{- $needed := int (include "tidegate.neededGrace" .) -}}
{{- $grace := int (include "tidegate.grace" .) -}}
{{- if lt $grace $needed -}}
{{- $found = append $found (printf "terminationGracePeriodSeconds: %d is too small: preStop, drain.propagation_s, drain.budget_s and 10 come to %d. Leave it out, or lower these" $grace $needed) -}}
{{- end -}}
{{- if and (gt $grace 600) (not .Values.allowLongTermination) -}}
{{- $found = append $found (printf "terminationGracePeriodSeconds: %d is above 600, and node autoscalers wait no longer than that: lower config.drain.budget_s, or say that it is meant by allowLongTermination=true" $grace) -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .hpa.enabled .keda.enabled -}}
{{- $found = append $found "autoscaling: hpa and keda exclude each other, since KEDA makes an HPA of its own: leave one" -}}
{{- end -}}
{{- range $name, $scaler := dict "hpa" .hpa "keda" .keda -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- $found = append $found (printf "autoscaling.%s: minReplicas is above maxReplicas" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .keda.enabled (not .keda.serverAddress) -}}
{{- $found = append $found "autoscaling.keda.serverAddress: missing: where Prometheus is, as http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- $found = append $found "metrics: podMonitor and serviceMonitor would count everything twice: leave one" -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "tidegate.refusals.routes" -}}
{{- $found := list -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- $found = append $found "ingress.hosts: missing" -}}
{{- end -}}
{{- with .Values.gateway -}}
{{- range $name, $route := dict "httpRoute" .httpRoute "tlsRoute" .tlsRoute -}}
{{- if and $route.enabled (not $route.parentRefs) -}}
{{- $found = append $found (printf "gateway.%s.parentRefs: missing: the Gateway it belongs to" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .tlsRoute.enabled (not .tlsRoute.hostnames) -}}
{{- $found = append $found "gateway.tlsRoute.hostnames: missing: it is routed by name" -}}
{{- end -}}
{{- if and .tlsRoute.enabled (not (include "tidegate.tls" $)) -}}
{{- $found = append $found "gateway.tlsRoute: hands TLS through, so the nodes need a certificate: set tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .backendTLS.enabled (not (include "tidegate.tls" $)) -}}
{{- $found = append $found "gateway.backendTLS: the nodes speak no TLS: set tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .backendTLS.enabled (not .backendTLS.hostname) -}}
{{- $found = append $found "gateway.backendTLS.hostname: missing: the name on the nodes' certificate" -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}
