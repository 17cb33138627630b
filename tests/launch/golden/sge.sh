#!/bin/sh
#$ -N minidask
#$ -pe smp 8
#$ -l h_rt=01:30:00
#$ -j y
#$ -o /home/ada/logs/$JOB_ID.log
#$ -S /bin/sh
#$ -q long
module load python
exec timeout --signal=TERM 5340 /opt/python -m minidask.worker tcp://login1:8786 --name "$JOB_ID" --access-file /home/ada/access --memory-limit 4GiB --nworkers 8
