#!/bin/sh
#SBATCH --job-name=minidask
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=90
#SBATCH --signal=B:TERM@60
#SBATCH --output=/home/ada/logs/%j.log
#SBATCH -q long
module load python
exec /opt/python -m minidask.worker tcp://login1:8786 --name "$SLURM_JOB_ID" --access-file /home/ada/access --memory-limit 4GiB --nworkers 8
