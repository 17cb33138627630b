#!/bin/sh
#PBS -N minidask
#PBS -l select=1:ncpus=8
#PBS -l walltime=01:30:00
#PBS -j oe
#PBS -o /home/ada/logs/
#PBS -q long
module load python
exec timeout --signal=TERM 5340 /opt/python -m minidask.worker tcp://login1:8786 --name "$PBS_JOBID" --access-file /home/ada/access --memory-limit 4GiB --nworkers 8
