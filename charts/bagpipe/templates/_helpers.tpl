{{/* Names and labels; every template takes them from here. */}}
{{- define "bagpipe.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "bagpipe.selector" -}}
app.kubernetes.io/name: bagpipe-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bagpipe.labels" -}}
{{ include "bagpipe.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/part-of: bagpipe
{{- end -}}

{{- define "bagpipe.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "bagpipe.name" .) -}}
{{- end -}}

{{/* An image of ours: from `registry`, if there is one. */}}
{{- define "bagpipe.from" -}}
{{- with .Values.registry -}}{{ trimSuffix "/" . }}/{{- end -}}
{{- end -}}

{{- define "bagpipe.image" -}}
{{- include "bagpipe.from" . -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* One lease for a class, wherever it is installed; an installation for some namespaces has one of its own. */}}
{{- define "bagpipe.leaseNamespace" -}}
{{- if .Values.scope.namespaces -}}{{ .Release.Namespace }}{{- else -}}{{ .Values.lease.namespace }}{{- end -}}
{{- end -}}

{{- define "bagpipe.leaseName" -}}
{{- if .Values.scope.namespaces -}}
{{- include "bagpipe.name" . -}}
{{- else -}}
bagpipe-operator{{ with .Values.operatorClass }}-{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* The operator's settings file (bagpipe_operator/settings.py). */}}
{{- define "bagpipe.settings" -}}
trainerImage: {{ printf "%s%s" (include "bagpipe.from" .) .Values.images.trainer | quote }}
serverImage: {{ printf "%s%s" (include "bagpipe.from" .) .Values.images.server | quote }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
imagePullSecrets: {{ .Values.jobs.imagePullSecrets | toJson }}
runAsUser: {{ .Values.jobs.runAsUser }}
namespaces: {{ .Values.scope.namespaces | toJson }}
kueue: {{ .Values.kueue.enabled }}
gangSchedulers: {{ .Values.gangSchedulers | toJson }}
watchNodes: {{ .Values.watchNodes }}
workers: {{ .Values.workers }}
progressSeconds: {{ .Values.progressSeconds }}
warningSeconds: {{ .Values.warningSeconds }}
operatorClass: {{ .Values.operatorClass | quote }}
release: {{ printf "%s/%s" .Release.Namespace .Release.Name | quote }}
leaseNamespace: {{ include "bagpipe.leaseNamespace" . }}
leaseName: {{ include "bagpipe.leaseName" . }}
leaseSeconds: {{ .Values.lease.seconds }}
renewSeconds: {{ .Values.lease.renewSeconds }}
listenPort: 8080
jobDefaults: {{ .Values.jobs.defaults | toJson }}
jobLimits: {{ .Values.jobs.limits | toJson }}
profiles:
  {{- toYaml .Values.profiles | nindent 2 }}
{{- end -}}

{{/* What the operator does with jobs and their children: exactly these verbs (tests/e2e compares with the audit log). */}}
{{- define "bagpipe.rules" -}}
- apiGroups: [bagpipe.dev]
  resources: [bagpipejobs]
  verbs: [list, watch, delete]
- apiGroups: [bagpipe.dev]
  resources: [bagpipejobs/status]
  verbs: [patch]
- apiGroups: [bagpipe.dev]
  resources: [bagpipejobs/finalizers]  # Owner references that block deletion; never called.
  verbs: [update]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
{{- if .Values.kueue.enabled }}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads/status]
  verbs: [patch]
{{- end }}
{{- range .Values.gangSchedulers }}
- apiGroups: [{{ if eq . "Volcano" }}scheduling.volcano.sh{{ else }}scheduling.x-k8s.io{{ end }}]
  resources: [podgroups]
  verbs: [list, watch, create, patch, delete]
{{- end }}
{{- end -}}
