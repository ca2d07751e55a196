{{/* Names, labels and images. */}}

{{- define "tidegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is added to it: names of Services have 63 characters at most. */}}
{{- define "tidegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tidegate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* Labels of an object: (dict "root" $ "component" "gateway" "extra" …). */}}
{{- define "tidegate.labels" -}}
{{- $root := .root -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "tidegate.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/component" (.component | default "gateway")
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- toYaml (merge (dict) $own (.extra | default dict) $root.Values.commonLabels) -}}
{{- end -}}

{{/* The `metadata` of an object: (dict "root" $ "suffix" "-peers" "component" … "labels" … "annotations" …). */}}
{{- define "tidegate.metadata" -}}
name: {{ include "tidegate.fullname" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "tidegate.labels" (dict "root" .root "component" .component "extra" .labels) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tidegate.image" -}}
{{- with .Values.image -}}
{{- $name := ternary (printf "%s/%s" .registry .repository) .repository (ne .registry "") -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "tidegate.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Fewest pods there ever are. */}}
{{- define "tidegate.minReplicas" -}}
{{- with .Values.autoscaling -}}
{{- if .hpa.enabled -}}{{ int .hpa.minReplicas }}
{{- else if .keda.enabled -}}{{ int .keda.minReplicas }}
{{- else -}}{{ int $.Values.replicaCount }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where the cluster's kubelets sleep by themselves before a container is told to leave. */}}
{{- define "tidegate.nativeSleep" -}}
{{- if and (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) (gt (int .Values.preStop.seconds) 0) -}}true{{- end -}}
{{- end -}}

{{/* What a pod needs to leave in peace, in seconds. */}}
{{- define "tidegate.neededGrace" -}}
{{- $sleep := ternary (int .Values.preStop.seconds) 0 (eq (include "tidegate.nativeSleep" .) "true") -}}
{{- $drain := (include "tidegate.config" . | fromYaml).drain | default dict -}}
{{- add $sleep (int (dig "propagation_s" 10 $drain)) (int (dig "budget_s" 240 $drain)) 10 -}}
{{- end -}}

{{- define "tidegate.grace" -}}
{{- .Values.terminationGracePeriodSeconds | default (include "tidegate.neededGrace" .) | int -}}
{{- end -}}

{{/* "true" where the nodes themselves terminate TLS. */}}
{{- define "tidegate.tls" -}}
{{- if or .Values.tls.existingSecret .Values.tls.certManager.enabled -}}true{{- end -}}
{{- end -}}

{{- define "tidegate.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "tidegate.fullname" .)) -}}
{{- end -}}

{{- define "tidegate.peerSecret" -}}
{{- .Values.peer.existingSecret | default (printf "%s-peer" (include "tidegate.fullname" .)) -}}
{{- end -}}

{{/* "true" where helm makes the nodes' certificate. */}}
{{- define "tidegate.peerGenerated" -}}
{{- with .Values.peer -}}
{{- if not (or .existingSecret .plaintext .certManager.enabled) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.servicePort" -}}
{{- .Values.service.port | default (ternary 443 80 (eq (include "tidegate.tls" .) "true")) | int -}}
{{- end -}}

{{- define "tidegate.apiPort" -}}
{{- .Values.service.api.port | default (ternary 443 80 (eq (include "tidegate.tls" .) "true")) | int -}}
{{- end -}}

{{/* What a port speaks: (list $ "kubernetes.io/wss" "kubernetes.io/ws"). GKE knows words of its own. */}}
{{- define "tidegate.appProtocol" -}}
{{- $root := index . 0 -}}
{{- $tls := eq (include "tidegate.tls" $root) "true" -}}
{{- if eq $root.Values.cloud "gke" -}}
{{- ternary "HTTPS" "HTTP" $tls -}}
{{- else -}}
{{- ternary (index . 1) (index . 2) $tls -}}
{{- end -}}
{{- end -}}

{{/* Secret with user and password: (list $ "kafka"). Empty: none. */}}
{{- define "tidegate.credentialsSecret" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $values := index $root.Values $name -}}
{{- if $values.existingSecret -}}
{{- $values.existingSecret -}}
{{- else if $values.password -}}
{{- printf "%s-%s" (include "tidegate.fullname" $root) $name -}}
{{- end -}}
{{- end -}}

{{/* A sum over what is in a Secret now, so that `helm upgrade` rolls the pods when it has changed. */}}
{{- define "tidegate.secretSum" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
{{- with lookup "v1" "Secret" $root.Release.Namespace . -}}
{{- .data | toJson | sha256sum -}}
{{- end -}}
{{- end -}}
{{- end -}}
