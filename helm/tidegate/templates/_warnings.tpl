{{/* What works and may yet be regretted. */}}

{{- define "tidegate.warnings" -}}
{{- $found := list -}}
{{- $config := include "tidegate.config" . | fromYaml -}}
{{- $scaled := or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled -}}
{{- if .Values.tryout.enabled -}}
{{- $found = append $found "tryout.enabled: one Redis and one Kafka without passwords and disks. What they hold is gone when their pods are. Not for production." -}}
{{- end -}}
{{- if and $config.public.plaintext (not .Values.tls.plaintext) -}}
{{- $found = append $found "Devices connect without TLS, since trying out does: set tls.existingSecret or tls.certManager.enabled." -}}
{{- end -}}
{{- if and .Values.tls.plaintext (not $config.public.trusted_proxies) (not $config.public.proxy_protocol) -}}
{{- $found = append $found "tls.plaintext without config.public.trusted_proxies or proxy_protocol: every device seems to have the address of what terminates TLS." -}}
{{- end -}}
{{- if and .Values.tls.plaintext (ne .Values.service.type "ClusterIP") -}}
{{- $found = append $found (printf "tls.plaintext and service.type=%s: tokens cross the network in the clear unless the load balancer terminates TLS." .Values.service.type) -}}
{{- end -}}
{{- if .Values.peer.plaintext -}}
{{- $found = append $found "peer.plaintext: whoever reaches port 7443 can command every device. At least set networkPolicy.enabled." -}}
{{- end -}}
{{- if include "tidegate.peerGenerated" . -}}
{{- $found = append $found "The nodes' certificate is made by helm and kept over upgrades. With Argo CD or anything else that only renders it would change each time: use peer.existingSecret or peer.certManager there." -}}
{{- end -}}
{{- if le (int (include "tidegate.minReplicas" .)) 1 -}}
{{- $found = append $found "One pod: a node lost is every device lost until it is back, and there is no PodDisruptionBudget." -}}
{{- else if not .Values.podDisruptionBudget.enabled -}}
{{- $found = append $found "podDisruptionBudget.enabled=false: a drained node of the cluster may take several pods at once." -}}
{{- end -}}
{{- if not (dig "limits" "memory" "" .Values.resources) -}}
{{- $found = append $found "resources.limits.memory: missing: what a node holds is bounded by config.limits, but nothing bounds the node." -}}
{{- end -}}
{{- if dig "limits" "cpu" "" .Values.resources -}}
{{- $found = append $found "resources.limits.cpu: a throttled node is late with pings and acks." -}}
{{- end -}}
{{- if not .Values.networkPolicy.enabled -}}
{{- $found = append $found "networkPolicy.enabled=false: every pod of the cluster reaches the peer and metrics ports." -}}
{{- else if not (or .Values.networkPolicy.monitoringFrom .Values.networkPolicy.extraIngress) -}}
{{- $found = append $found "networkPolicy.monitoringFrom is empty: nobody may read metrics." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.limitEgress (dig "telemetry" "otlp_endpoint" "" $config) (not (or .Values.networkPolicy.otlp.ports .Values.networkPolicy.extraEgress)) -}}
{{- $found = append $found "config.telemetry.otlp_endpoint is set and networkPolicy.otlp.ports is empty: no trace gets out." -}}
{{- end -}}
{{- if and (eq .Values.cloud "gke") .Values.networkPolicy.enabled (not .Values.networkPolicy.healthCheckCIDRs) .Values.networkPolicy.publicFrom -}}
{{- $found = append $found "cloud=gke: the health checks come from 35.191.0.0/16 and 130.211.0.0/22: put them into networkPolicy.healthCheckCIDRs." -}}
{{- end -}}
{{- if not (or .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled) -}}
{{- $found = append $found "Nothing scrapes the metrics: set metrics.podMonitor.enabled where the Prometheus operator is." -}}
{{- end -}}
{{- if $config.auth.query_token -}}
{{- $found = append $found "config.auth.query_token: tokens in URLs end in other people's logs." -}}
{{- end -}}
{{- if and (not .Values.image.digest) (eq .Values.image.tag "latest") -}}
{{- $found = append $found "image.tag=latest: nodes of different versions may come to be side by side, and no rollback finds the old one." -}}
{{- end -}}
{{- if not (include "tidegate.nativeSleep" .) -}}
{{- $found = append $found "No preStop sleep: load balancers have config.drain.propagation_s alone to notice that a pod leaves." -}}
{{- end -}}
{{- if gt (int (include "tidegate.grace" .)) 600 -}}
{{- $found = append $found "terminationGracePeriodSeconds is above 600: node autoscalers end such a pod before its drain is over." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.annotations) -}}
{{- $found = append $found "ingress.annotations is empty: most controllers cut idle connections at 60 s and need to be told of a TLS backend: see the chart's README." -}}
{{- end -}}
{{- if and $config.public.proxy_protocol .Values.smoke.enabled -}}
{{- $found = append $found "config.public.proxy_protocol: a client that reaches the Service itself is closed, `helm test` too unless smoke.host is set." -}}
{{- end -}}
{{- if and $config.public.hosts .Values.smoke.enabled (not .Values.smoke.host) (not (has (include "tidegate.fullname" .) $config.public.hosts)) -}}
{{- $found = append $found "config.public.hosts: the Service's name is not among them, so `helm test` is refused: set smoke.host." -}}
{{- end -}}
{{- if and $scaled (not .Values.topologySpread.enabled) -}}
{{- $found = append $found "topologySpread.enabled=false: scaled pods may all be on one node of the cluster." -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}
