"""Human studies: blinded pairs of pictures on a page of one file, and what the votes say."""
