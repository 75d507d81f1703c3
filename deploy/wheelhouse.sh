#!/usr/bin/env bash
# Everything that an installation needs, in one folder: the package's own wheel, the wheels of all that it needs in the
# exact versions of constraints.txt, their checksums and a bill of materials. Needs a package index; the installation
# then needs none.
#
#   deploy/wheelhouse.sh FOLDER [MORE WORDS FOR pip]
#
#   PYTHON=python3.11    an interpreter of the version, and on the kind of machine, that will install it
#   EXTRAS=wordvectors   optional parts of the package, separated by commas
#
# The installation, on a machine without a network:
#
#   cd FOLDER && sha256sum --check --strict --quiet SHA256SUMS
#   python3.11 -m venv /opt/mmrec
#   /opt/mmrec/bin/pip install --no-index --find-links FOLDER mmrec
set -euo pipefail

folder=${1:?"usage: deploy/wheelhouse.sh FOLDER [MORE WORDS FOR pip]"}
shift
python=${PYTHON:-python3}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -n "$(ls -A "$folder")" ]; then
    echo "$folder is not empty: wheels of another release would be installed with these" >&2
    exit 1
fi

"$python" -m pip wheel --disable-pip-version-check --no-cache-dir --wheel-dir "$folder" \
    --constraint "$root/constraints.txt" "$@" "$root${EXTRAS:+[$EXTRAS]}"
cp "$root/constraints.txt" "$folder/"
"$python" "$root/deploy/sbom.py" "$folder" "$folder/sbom.cdx.json"
cd "$folder"
sha256sum -- *.whl constraints.txt sbom.cdx.json >SHA256SUMS
echo "$(find . -name '*.whl' | wc -l) wheels in $folder. Install without a network:"
echo "  pip install --no-index --find-links $folder mmrec"
