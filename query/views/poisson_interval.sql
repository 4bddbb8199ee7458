/*
title = "Intervals of small counts"
question = "Between what may the mean lie of something that was counted a few times? The exact interval of 95 % for counts from 0 to 9 that come by chance (Poisson; Garwood 1936). From 10 on, Byar's approximation is right to 0.2 %. A constant: always fresh."
[columns]
count = "How often it was counted."
low = "Lower end of the mean."
high = "Upper end of the mean."
*/
SELECT CAST(column1 AS BIGINT) AS count, CAST(column2 AS DOUBLE) AS low, CAST(column3 AS DOUBLE) AS high
FROM (
  VALUES
    (0, 0.000000000000, 3.688879454114),
    (1, 0.025317807984, 5.571643390939),
    (2, 0.242209278544, 7.224687667724),
    (3, 0.618672122896, 8.767273069742),
    (4, 1.089865373626, 10.241588675404),
    (5, 1.623486390118, 11.668332079323),
    (6, 2.201894253491, 13.059474022519),
    (7, 2.814363051520, 14.422675361702),
    (8, 3.453832176748, 15.763189220193),
    (9, 4.115373097378, 17.084803451419)
)
