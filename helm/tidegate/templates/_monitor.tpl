{{/* One endpoint of a PodMonitor or ServiceMonitor, from its values. */}}
{{- define "tidegate.monitorEndpoint" -}}
port: internal
path: /metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- range $key := list "relabelings" "metricRelabelings" }}
{{- with index $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
