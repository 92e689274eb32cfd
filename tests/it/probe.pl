#!/usr/bin/perl
# Stands in for `selvedged` in a booted root: looks for ways out as the role it is called with,
# and writes what it finds into its state directory.
use strict;
use warnings;
use Socket;

my $role = shift;
my $state = $ENV{STATE_DIRECTORY} or die "no state directory";
my @said;
sub say_it { push @said, "$role @_" }

sub unix_to {
    my ($type, $path) = @_;
    socket(my $s, AF_UNIX, $type, 0) or return;
    return connect($s, sockaddr_un($path)) ? $s : undef;
}

# Families by their numbers on Linux.
my %families = (inet => 2, inet6 => 10, netlink => 16, packet => 17);
for my $name (sort keys %families) {
    say_it($name, socket(my $s, $families{$name}, SOCK_DGRAM, 0) ? 'allowed' : 'refused');
}
say_it('dbus', -S '/run/dbus/system_bus_socket' && unix_to(SOCK_STREAM, '/run/dbus/system_bus_socket') ? 'reached' : 'refused');
say_it('password', open(my $p, '<', '/etc/selvedge/broker-password') ? 'read' : 'refused');
say_it('etc', open(my $e, '>', '/etc/selvedge/written') ? 'written' : 'refused');

if ($role eq 'engine') {
    say_it(join ' ', sort split /:/, $ENV{LISTEN_FDNAMES} // '');
    opendir(my $run, '/run') or die "/run: $!";
    say_it('run:', join ' ', sort grep { !/^\./ } readdir $run);
    say_it('journal', unix_to(SOCK_DGRAM, '/run/systemd/journal/socket') ? 'reached' : 'refused');
    say_it('meminfo', -r '/proc/meminfo' && -r '/proc/sys/kernel/random/boot_id' ? 'read' : 'refused');
} else {
    say_it('meets engine') if unix_to(SOCK_STREAM, '/run/selvedge-ipc/link.sock');
    say_it('api', unix_to(SOCK_STREAM, '/run/selvedge/api.sock') ? 'reached' : 'refused');
    say_it('engine-state', opendir(my $d, '/var/lib/selvedge') ? 'read' : 'refused');
}

say_it('writes state');
my $notify = unix_to(SOCK_DGRAM, $ENV{NOTIFY_SOCKET}) or say_it("cannot notify: $!");
say_it('ready') if $notify && send($notify, "READY=1\n", 0);
open(my $out, '>', "$state/probe") or die "$state: $!";
print $out "$_\n" for @said;
close $out;
sleep 60;
