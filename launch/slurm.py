"""Submit a training to Slurm. The same as `distcls submit`, whose --help explains it.

python launch/slurm.py -c configs/digits.yaml --nodes 2 --gpus-per-node 8 --partition P --time 60 --job-dir /shared/jobs
"""

import sys

from distcls.cli import main

if __name__ == "__main__":
    sys.exit(main(["submit", *sys.argv[1:]]))
