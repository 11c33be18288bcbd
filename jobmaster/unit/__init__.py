"""jobmaster as a service of systemd: its unit, made of the files `jobmaster.service` and `hardening.conf` beside this one."""
