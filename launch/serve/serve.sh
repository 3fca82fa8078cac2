#!/bin/sh
# The entry point of the image `serve`: finds the run that Docker or a cloud has put into the container, and serves it.
# Extra arguments go to distcls serve, such as --name flowers --token-file /secrets/token.
#
#   DISTCLS_RUN          the run folder (default: where the cloud puts it, else /model)
#   AZUREML_MODEL_DIR    set by Azure ML: a folder with the registered model
#   AIP_HTTP_PORT, AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE    set by Vertex AI, and read by distcls serve
set -eu
azure=${AZUREML_MODEL_DIR:-/nowhere}
if [ "${1:-}" = serve ]; then # what SageMaker passes
    shift
    set -- --port "${SAGEMAKER_BIND_TO_PORT:-8080}" "$@"
fi
for run in "${DISTCLS_RUN:-/nowhere}" "$azure" "$azure"/* /opt/ml/model /opt/ml/model/* /model; do
    [ ! -e "$run/config.yaml" ] || exec distcls serve "$run" --host 0.0.0.0 "$@"
done
echo "serve.sh: there is no run folder here: mount one at /model, or name it in DISTCLS_RUN" >&2
exit 66
