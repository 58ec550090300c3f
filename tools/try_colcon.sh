#!/bin/sh
# Builds the package with colcon as a ROS 2 workspace would, and looks at what it installs.
# Usage: tools/try_colcon.sh [WORKSPACE]   (default: a temporary folder; takes about a minute)
# ROS 2 comes from a sourced /opt/ros/<distro>/setup.sh, else from the wheels in .venv (run 'make setup' first).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
workspace=${1:-$(mktemp -d)}

if [ -z "${AMENT_PREFIX_PATH:-}" ]; then
    PATH="$root/.venv/bin:$PATH"
    export PATH AMENT_PREFIX_PATH="$root/.venv" CMAKE_PREFIX_PATH="$root/.venv"
fi
python=$(command -v python3)

mkdir -p "$workspace/src"
[ -e "$workspace/src/stemseg" ] || git clone --quiet "$root" "$workspace/src/stemseg"
cd "$workspace"
colcon build --paths src/stemseg --cmake-args -DPython3_EXECUTABLE="$python" -DBUILD_TESTING=OFF > colcon.log 2>&1 || {
    tail -n 40 colcon.log >&2
    exit 1
}

set +u  # the script of colcon reads variables that are not set
# shellcheck disable=SC1091
. install/setup.sh
set -u
prefix=$workspace/install/stemseg
"$python" -c "
from stemseg.msg import Instance, InstanceArray
import stemseg, stemseg_ros
for module in (stemseg, stemseg_ros):
    assert module.__file__.startswith('$prefix'), module.__file__
from stemseg_ros.resources import resource_path
assert str(resource_path('config/models/lite.yaml')).startswith('$prefix')
assert InstanceArray(instances=[Instance(track_id=1)]).instances[0].track_id == 1
"
echo "#include <stemseg/masks.hpp>
int main() {return static_cast<int>(stemseg::Mask(std::string(\"4\"), 2, 2).area());}" |
    "${CXX:-c++}" -I "$prefix/include/stemseg" -x c++ - -o "$workspace/masks" && "$workspace/masks"
for folder in config config/models launch media; do
    echo "share/stemseg/$folder: $(ls "$prefix/share/stemseg/$folder" | tr '\n' ' ')"
done
echo "lib/stemseg: $(ls "$prefix/lib/stemseg" | tr '\n' ' ')"
for program in "$prefix"/lib/stemseg/*; do
    "$program" --help > /dev/null
done
echo "colcon build and install work in $workspace"
