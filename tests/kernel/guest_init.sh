#!/bin/sh
# Pid 1 of a guest whose root is the host's own file system, read-only. Kernel command line: `control=` is the host's
# folder for this guest, kept writable at the same path; it holds `script`, and the guest leaves `status` in it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
for folder in /run /tmp /var/tmp; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up

# The kernel loads its modules by this program, from the package's folder: the host need not have a /lib/modules.
mkdir -p /run/uml/lib/modules
mount -t hostfs modules /run/uml/lib/modules -o /usr/lib/uml/modules
printf '#!/bin/sh\nexec modprobe -d /run/uml "$@"\n' >/run/uml/modprobe
chmod 755 /run/uml/modprobe
echo /run/uml/modprobe >/proc/sys/kernel/modprobe

for word in $(cat /proc/cmdline); do
  case $word in control=*) control=${word#control=} ;; esac
done
mkdir -p "$control"
mount -t hostfs control "$control" -o "$control"
stty -onlcr </dev/console

# With systemd the script is a unit of it; of the host's own units, those that were enabled there are hidden.
if [ -d "$control/units" ]; then
  mount -t tmpfs units /etc/systemd/system
  cp "$control"/units/* /etc/systemd/system
  exec env container= /lib/systemd/systemd </dev/null # empty: no container, whatever files the host has as one
fi

setsid sh "$control/script" </dev/null
echo $? >"$control/status"
sync
echo o >/proc/sysrq-trigger # power off, with no program of an init system
sleep 60
