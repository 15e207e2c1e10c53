{{/* Names and labels; every template takes them from here. */}}
{{- define "bagpipe.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "bagpipe.selector" -}}
app.kubernetes.io/name: bagpipe-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Without the chart's own version, with which the pods have nothing to do: another one restarts none of them. */}}
{{- define "bagpipe.podLabels" -}}
{{ include "bagpipe.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: bagpipe
{{- end -}}

{{- define "bagpipe.labels" -}}
{{ include "bagpipe.podLabels" . }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "bagpipe.serviceAccount" -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.name: expected the name of an account that exists, as serviceAccount.create is false; found nothing" -}}
{{- end -}}
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

{{/*
The operator's settings file (bagpipe_operator/settings.py). A number of a values file is written whole, not as 1e+06. Its
text, whose checksum restarts the operator, is the same in whichever order the values stand where the order means nothing.
*/}}
{{- define "bagpipe.settings" -}}
{{- if ge (mulf 3.0 .Values.lease.renewSeconds) (mulf 2.0 .Values.lease.seconds) -}}
{{- fail (printf "lease.renewSeconds: expected less than two thirds of lease.seconds (%v), found %v: a leader would lose its lease between two renewals" .Values.lease.seconds .Values.lease.renewSeconds) -}}
{{- end -}}
{{- with .Values.jobs.defaultClass -}}
{{- if not (hasKey $.Values.jobs.classes .) -}}
{{- fail (printf "jobs.defaultClass: expected a class of jobs.classes (%s), found %s" (keys $.Values.jobs.classes | sortAlpha | join ", " | default "none") .) -}}
{{- end -}}
{{- end -}}
trainerImage: {{ printf "%s%s" (include "bagpipe.from" .) .Values.images.trainer | quote }}
serverImage: {{ printf "%s%s" (include "bagpipe.from" .) .Values.images.server | quote }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
imagePullSecrets: {{ .Values.jobs.imagePullSecrets | toJson }}
runAsUser: {{ .Values.jobs.runAsUser | int64 }}
namespaces: {{ .Values.scope.namespaces | sortAlpha | toJson }}
kueue: {{ .Values.kueue.enabled }}
gangSchedulers: {{ .Values.gangSchedulers | sortAlpha | toJson }}
watchNodes: {{ .Values.watchNodes }}
workers: {{ .Values.workers | int64 }}
progressSeconds: {{ .Values.progressSeconds | int64 }}
warningSeconds: {{ .Values.warningSeconds | int64 }}
operatorClass: {{ .Values.operatorClass | quote }}
release: {{ printf "%s/%s" .Release.Namespace .Release.Name | quote }}
leaseNamespace: {{ include "bagpipe.leaseNamespace" . | quote }}
leaseName: {{ include "bagpipe.leaseName" . | quote }}
leaseSeconds: {{ .Values.lease.seconds | toJson }}
renewSeconds: {{ .Values.lease.renewSeconds | toJson }}
listenPort: 8080
jobDefaults: {{ .Values.jobs.defaults | toJson }}
jobLimits: {{ .Values.jobs.limits | toJson }}
jobClasses: {{ .Values.jobs.classes | toJson }}
defaultJobClass: {{ .Values.jobs.defaultClass | quote }}
profiles: {{ .Values.profiles | toJson }}
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
{{- range sortAlpha .Values.gangSchedulers }}
- apiGroups: [{{ if eq . "Volcano" }}scheduling.volcano.sh{{ else }}scheduling.x-k8s.io{{ end }}]
  resources: [podgroups]
  verbs: [list, watch, create, patch, delete]
{{- end }}
{{- end -}}
