# Runs in a chroot of the cloud's root: makes /opt/repository, a folder of .debs, an apt repository.
cd /opt/repository
# apt writes the colon of an epoch as %3a in file names; an HTTP server would decode that once more
for file in *%3a*; do [ ! -e "$file" ] || mv "$file" "$(echo "$file" | sed 's/%3a/./')"; done
dpkg-scanpackages -m . > Packages
gzip -k Packages
{
    printf 'Origin: lab\nSuite: lab\nDate: %s\nSHA256:\n' "$(date -Ru)"
    for file in Packages Packages.gz; do echo " $(sha256sum $file | cut -d' ' -f1) $(stat -c%s $file) $file"; done
} > Release
